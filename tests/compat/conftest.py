"""The names are lent for one test at a time."""

import sys

import pytest

import ssmlab.compat


@pytest.fixture
def installed():
    before = {name for name in sys.modules if name.partition(".")[0] in ssmlab.compat.PACKAGES}
    assert not before
    ssmlab.compat.install()
    yield
    ssmlab.compat.uninstall()
