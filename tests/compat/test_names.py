"""Every name of the distributions has an answer: itself with the same arguments, or a line that says why not."""

import importlib
import inspect
import tomllib
from pathlib import Path

import pytest

from ssmlab.compat._absent import Absent
from ssmlab.core.errors import UserError

NAMES = tomllib.loads((Path(__file__).parent / "names.toml").read_text("utf-8"))


def answer(module, name):
    """What `from module import name` gives; for "Class.method" the method."""
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
        if isinstance(found, Absent):
            break
    return found


@pytest.mark.parametrize("module", NAMES)
def test_names_and_arguments(installed, module):
    problems = []
    importlib.import_module(module)
    for name, arguments in NAMES[module].items():
        try:
            found = answer(module, name)
        except AttributeError:
            problems.append(f"{name} is missing")
            continue
        if isinstance(found, Absent):
            with pytest.raises(UserError, match=name.split(".")[0]) as raised:
                found()
            if "\n" in str(raised.value):
                problems.append(f"{name}: more than one line")
        elif arguments:
            there = set(inspect.signature(found).parameters)
            problems += [f"{name} does not take {argument}" for argument in arguments.split() if argument not in there]
    assert not problems


def test_absent_names_are_told_apart_from_unknown_ones(installed):
    module = importlib.import_module("mamba_ssm.ops.triton.ssd_chunk_scan")
    with pytest.raises(UserError, match=r"mamba_ssm\.ops\.triton\.ssd_chunk_scan\._chunk_scan_bwd_dx has no"):
        module._chunk_scan_bwd_dx(1, x=2)
    with pytest.raises(UserError, match="call chunk_scan"):
        module._chunk_scan_fwd_kernel[(1, 2)](None)
    with pytest.raises(AttributeError, match=r"module 'mamba_ssm\.ops\.triton\.ssd_chunk_scan' has no attribute 'no'"):
        module.no  # noqa: B018


def test_blocks_of_both_versions_are_themselves(installed):
    simple, block = (importlib.import_module(f"mamba_ssm.modules.{name}") for name in ("mamba_simple", "block"))
    assert simple.Block is not block.Block and not issubclass(simple.Block, simple.Mamba)
    assert "mlp_cls" in inspect.signature(block.Block).parameters
    assert "mlp_cls" not in inspect.signature(simple.Block).parameters
