import pytest

from tiny_vision import picture, small


@pytest.fixture(scope="session")
def pictures():
    return [picture(seed) for seed in range(4)]


@pytest.fixture(scope="session")
def model():
    return small()
