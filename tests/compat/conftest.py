"""The names are lent for one test at a time."""

import sys

import pytest
import torch

import ssmlab.compat


@pytest.fixture(autouse=True)
def seeded():
    """Weights are those of the test alone, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def installed():
    before = {name for name in sys.modules if name.partition(".")[0] in ssmlab.compat.PACKAGES}
    assert not before
    ssmlab.compat.install()
    yield
    ssmlab.compat.uninstall()
