"""The state space dual's Triton kernels against the definition, at the native kernels' cases and tolerances."""

import sys

import pytest
import torch

from ops.test_ssd import CASES, make, make_float, with_options
from ops.triton_common import compared, on_device
from ssmlab.core.errors import BackendError
from ssmlab.ops import ssd

BACKEND = "ssmlab.ops.ssd.triton"


@pytest.mark.parametrize("programs", [1, 512])
@pytest.mark.parametrize("case", CASES)
def test_equals_definition(case, programs, monkeypatch):
    """With one program wanted each takes all chunks and all heads of a group; else a chunk of a head is one."""
    monkeypatch.setattr(sys.modules[BACKEND], "PROGRAMS", programs)
    sizes, form, options = CASES[case]
    compared(ssd, make(*sizes, **form), torch.float32, with_options(sizes, options))


def test_three_heads_of_a_group_in_one_program(monkeypatch):
    monkeypatch.setattr(sys.modules[BACKEND], "PROGRAMS", 1)
    compared(ssd, make(1, 40, 6, 3, 2, 5), torch.float32, {"dt_softplus": True})


def test_many_states():
    compared(ssd, make(1, 20, 2, 3, 1, 70), torch.float32, {"dt_softplus": True})


@pytest.mark.parametrize("layout", ["channels", "gaps"])
def test_strides(layout):
    compared(ssd, make(2, 40, 4, 6, 2, 5), torch.float32, {"dt_softplus": True}, layout)


@pytest.mark.parametrize("absent", [(), ("z",)], ids=["gate", "no gate"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions(dtype, absent):
    compared(ssd, make(2, 80, 4, 8, 1, 16, absent=absent), dtype, {"dt_softplus": True})


def test_without_gradients_the_same():
    arguments = make_float(2, 70, 4, 8, 1, 16)
    leaves = {k: t.clone().requires_grad_() for k, t in arguments.items()}
    found, wanted = (on_device(ssd)(**a, dt_softplus=True, backend="triton") for a in (arguments, leaves))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter
def test_nan_stays_in_its_row():
    arguments = make_float(2, 40, 2, 4, 1, 4)
    clean, _ = on_device(ssd)(**arguments, dt_softplus=True, backend="triton")
    arguments["x"][1, 35, 1, 2] = torch.nan
    y, _ = on_device(ssd)(**arguments, dt_softplus=True, backend="triton")
    assert torch.equal(y[0], clean[0]) and torch.equal(y[1, :32], clean[1, :32]) and y[1, 35:, 1, 2].isnan().all()


@pytest.mark.parametrize("sizes", [(2, 0, 4, 3, 2, 4), (0, 5, 4, 3, 2, 4)])
def test_empty(sizes):
    arguments = {k: t.requires_grad_() for k, t in make_float(*sizes).items()}
    y, state = on_device(ssd)(**arguments, backend="triton")
    assert y.shape == arguments["x"].shape
    torch.testing.assert_close(state, arguments["initial_state"])
    (y.sum() + state.sum()).backward()
    assert torch.equal(arguments["initial_state"].grad, torch.ones_like(arguments["initial_state"]))


def test_what_it_refuses():
    with pytest.raises(BackendError, match="a head has 200 channels"):
        ssd(**make_float(1, 4, 1, 200, 1, 2), backend="triton")


def test_the_operators_fake_kernels_tell_the_truth():
    a = make_float(1, 40, 2, 4, 1, 4, absent=("z", "dt_bias"))
    checks = ("test_schema", "test_faketensor")
    tensors = tuple(a[k] for k in ("x", "dt", "A", "B", "C", "D"))
    arguments = (*tensors, None, None, False, a["initial_state"], None, 64, True, "triton")
    torch.library.opcheck(torch.ops.ssmlab.ssd, arguments, test_utils=checks)
    y, state, saved = torch.ops.ssmlab.ssd(*arguments)
    arguments = (y, state, saved, *tensors, None, 64, None, "triton")
    torch.library.opcheck(torch.ops.ssmlab.ssd_backward, arguments, test_utils=checks)
