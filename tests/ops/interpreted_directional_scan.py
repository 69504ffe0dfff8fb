"""The directional scan by Triton kernels against the definition, with the native kernels' tolerances."""

import sys

import pytest
import torch

from ops.test_directional_scan import make, op
from ops.triton_common import compared

CASES = {
    "a map": ((1, 3, 4, 6, 2, 4), ()),
    "tall, nothing optional": ((1, 3, 5, 3, 1, 4), ("D", "dt_bias")),
    "rows alone": ((2, 3, 4, 6, 1, 1), ()),
    "rows and columns": ((1, 3, 6, 4, 1, 2), ()),
    "one point": ((2, 3, 1, 1, 1, 4), ()),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(sys.modules["ssmlab.ops.selective_scan.triton"], "TILES", {2: (16, 4, 4), 4: (16, 4, 4)})


@pytest.mark.parametrize("case", CASES)
def test_equals_definition(case):
    sizes, absent = CASES[case]
    options = {"dt_softplus": True, "directions": sizes[-1]}
    compared(op, make(*sizes, absent=absent), torch.float32, options)


def test_strides():
    compared(op, make(1, 3, 4, 4, 1, 4), torch.float32, {"dt_softplus": True}, "gaps")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions(dtype):
    compared(op, make(1, 4, 4, 4, 2, 4), dtype, {"dt_softplus": True})
