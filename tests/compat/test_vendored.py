"""Programs that bring their own copy of mamba_ssm: our compiled names and Triton functions run its Python."""

import sys
from importlib import import_module

import pytest
import torch

import ssmlab.compat
from ops.common import relative_error
from ssmlab.compat import causal_conv1d_cuda, forks, selective_scan_cuda
from ssmlab.compat.causal_conv1d.causal_conv1d_interface import causal_conv1d_fn
from ssmlab.compat.mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from ssmlab.compat.mamba_ssm.ops.triton.layer_norm import layer_norm_fn
from ssmlab.compat.vendored import is_lent
from ssmlab.core.errors import UserError

INTERFACE = """
import causal_conv1d_cuda, selective_scan_cuda
from transformers.generation import GreedySearchDecoderOnlyOutput, TextStreamer
from .triton.layernorm import layer_norm_fn
from .triton.own_kernels import doubled
"""
TRITON = """
import a_package_that_only_gpus_have
"""
LAYERNORM = """
import os
HELD = "theirs"
def layer_norm_fn(*arguments):
    raise RuntimeError("a GPU is needed")
def private():
    return HELD
"""


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of mamba_ssm under another name, inside another package."""
    folder = tmp_path / "models" / "mamba_plus" / "ops" / "triton"
    folder.mkdir(parents=True)
    for package in (folder, *list(folder.parents)[:3]):
        (package / "__init__.py").write_text("")
    (folder.parent / "selective_scan_interface.py").write_text(INTERFACE)
    (folder / "layernorm.py").write_text(LAYERNORM)
    (folder / "selective_state_update.py").write_text(TRITON)
    (folder / "own_kernels.py").write_text("def doubled(x):\n    return 2 * x\n")
    for file in ("triton/mamba3/mamba3_siso_combined", "triton/own/kernels", "cute/mamba3/mamba3_step_fn"):
        file = folder.parent / f"{file}.py"
        file.parent.mkdir(parents=True)
        file.write_text("OWN = True\n" if "own" in file.parts else TRITON)
        (file.parent / "__init__.py").write_text("OWN = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "models.mamba_plus.ops"
    for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
        del sys.modules[name]


def test_a_copy_runs_on_ours(installed, copy):
    interface = import_module(f"{copy}.selective_scan_interface")
    assert interface.__file__.endswith("models/mamba_plus/ops/selective_scan_interface.py")
    assert interface.selective_scan_cuda is selective_scan_cuda
    assert interface.causal_conv1d_cuda is causal_conv1d_cuda
    assert interface.layer_norm_fn is layer_norm_fn and interface.doubled(2) == 4
    assert import_module(f"{copy}.triton.selective_state_update").selective_state_update
    assert interface.GreedySearchDecoderOnlyOutput.__name__ == "GenerateDecoderOnlyOutput"


def test_kernels_in_folders(installed, copy):
    """mamba_ssm 2.3 keeps Mamba-3's kernels in folders of their own, in three languages."""
    siso = import_module(f"{copy}.triton.mamba3.mamba3_siso_combined")
    assert is_lent(siso) and siso.mamba3_siso_combined.__module__.startswith("ssmlab.")
    assert is_lent(import_module(f"{copy}.cute.mamba3.mamba3_step_fn"))
    assert import_module(f"{copy}.triton.mamba3").OWN and import_module(f"{copy}.triton.own.kernels").OWN


def test_what_ours_lacks_is_the_copys(installed, copy, monkeypatch):
    ours = import_module("mamba_ssm.ops.triton.layernorm")
    monkeypatch.setattr(ours, "__getattr__", {"HELD": "ours, on demand"}.__getitem__, raising=False)
    lent = import_module(f"{copy}.triton.layernorm")
    assert lent.HELD == "ours, on demand"
    monkeypatch.undo()
    assert lent.private() == "theirs" and not hasattr(lent, "__wrapped__")
    with pytest.raises(AttributeError, match="neither"):
        lent.neither  # noqa: B018


def test_only_while_installed(copy):
    ssmlab.compat.install()
    name = f"{copy}.triton.layernorm"
    assert import_module(name).layer_norm_fn is layer_norm_fn
    ssmlab.compat.uninstall()
    with pytest.raises(RuntimeError, match="a GPU is needed"):
        import_module(name).layer_norm_fn()


def test_a_gpu_runs_the_copys_own(installed, copy, monkeypatch):
    monkeypatch.setattr("ssmlab.compat.vendored._runs_triton", lambda: True)
    assert import_module(f"{copy}.triton.layernorm").layer_norm_fn is not layer_norm_fn


@pytest.mark.parametrize("module", ["transformers.generation", "transformers.generation.utils"])
def test_old_names_of_results(installed, module):
    found = import_module(module)
    utils = import_module("transformers.generation.utils")
    assert found.SampleDecoderOnlyOutput is utils.GenerateDecoderOnlyOutput
    assert found.GreedySearchEncoderDecoderOutput is utils.GenerateEncoderDecoderOutput
    assert found.BeamSearchDecoderOnlyOutput is utils.GenerateBeamDecoderOnlyOutput
    with pytest.raises(AttributeError):
        found.NoSuchOutput  # noqa: B018


b, d, l, w, n = 2, 6, 130, 4, 5


@pytest.fixture
def conv():
    return {"x": torch.randn(b, d, l), "weight": torch.randn(d, w), "bias": torch.randn(d)}


@pytest.mark.parametrize("count", [4, 5, 7, 8])
def test_convolution_forward(conv, count):
    tensors, past = tuple(conv.values()), torch.randn(b, d, w - 1)
    expected, last = causal_conv1d_fn(
        **conv, activation="silu", initial_states=past if count > 5 else None, return_final_states=True
    )
    final, out = torch.empty_like(last), torch.empty(b, d, l)
    rest = {4: (), 5: (None,), 7: (None, past, final), 8: (None, past, out, final)}[count]
    y = causal_conv1d_cuda.causal_conv1d_fwd(*tensors, *rest, True)
    y = out if count == 8 else y
    assert relative_error(y, expected) < 1e-6 and (count < 7 or torch.equal(final, last))


@pytest.mark.parametrize("count", [6, 7, 10, 12])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_convolution_backward(conv, count, bias):
    leaves = [
        conv["x"].requires_grad_(),
        conv["weight"].requires_grad_(),
        conv["bias"].requires_grad_() if bias else None,
    ]
    past = torch.randn(b, d, w - 1, requires_grad=True) if count > 7 else None
    y = causal_conv1d_fn(*leaves, activation="silu", initial_states=past)
    dout = torch.randn(b, d, l)
    present = [t for t in (*leaves, past) if t is not None]
    expected = torch.autograd.grad(y, present, dout)
    tensors = tuple(None if t is None else t.detach() for t in leaves)
    dx = torch.empty(b, 2 * d, l).chunk(2, dim=1)[0]  # as callers hand in half of a larger tensor
    given = [torch.empty_like(t) if t is not None else None for t in (*tensors[1:], past)]
    rest = {6: (dx,), 7: (None, dx), 10: (None, past, None, dx, True), 12: (None, past, None, dx, *given)}[count]
    found = causal_conv1d_cuda.causal_conv1d_bwd(*tensors, dout, *rest, True)
    found = (dx, *given) if count == 12 else found
    assert found[0] is dx and len(found) == (3 if count < 10 else 4)
    found = [g for g in found if g is not None]
    assert max(relative_error(a, e) for a, e in zip(found, expected, strict=True)) < 2e-6


@pytest.mark.parametrize("count", [5, 6, 7, 8])
def test_convolution_update(conv, count):
    x, weight, bias = conv.values()
    state, out = torch.zeros(b, d, w), torch.empty(b, d)
    expected = causal_conv1d_fn(**conv, activation="silu")
    for t in range(3):
        token = (x[..., t], state, weight, bias)
        if count == 8:
            causal_conv1d_cuda.causal_conv1d_update(*token, out, True, None, None)
        else:
            out = causal_conv1d_cuda.causal_conv1d_update(*token, True, *[None] * (count - 5))
        assert relative_error(out, expected[..., t]) < 2e-6
    assert torch.equal(state[..., 1:], x[..., :3])


def test_a_version_that_there_is_not(conv):
    with pytest.raises(UserError, match="causal_conv1d_fwd has 4, 5, 7, 8 arguments"):
        causal_conv1d_cuda.causal_conv1d_fwd(*conv.values(), None, None, True)


def scan_inputs(complex_=False):
    A = -torch.rand(d, n) - 0.1
    A = torch.complex(A, torch.randn(d, n)) if complex_ else A
    maps = (torch.randn(b, 1, n, 2 * l if complex_ else l) for _ in range(2))
    return (
        torch.randn(b, d, l),
        0.5 * torch.rand(b, d, l),
        A,
        *maps,
        torch.randn(d),
        torch.randn(b, d, l),
        torch.rand(d),
    )


class Scans:
    """Counts the passes of the kernels."""

    def __init__(self, monkeypatch):
        self.forward = self.backward = 0
        operators = torch.ops.ssmlab
        scan, back = operators.selective_scan, operators.selective_scan_backward

        def forward(*arguments):
            self.forward += 1
            return scan(*arguments)

        def backward(*arguments):
            self.backward += 1
            return back(*arguments)

        monkeypatch.setattr(operators, "selective_scan", forward)
        monkeypatch.setattr(operators, "selective_scan_backward", backward)


@pytest.mark.parametrize("gate", [True, False], ids=["gate", "no gate"])
@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
def test_one_scan_a_call(gate, complex_, monkeypatch):
    """Three intervals of saved states; x is copied on its way, as autograd may."""
    inputs = list(scan_inputs(complex_))
    inputs[6] = inputs[6] if gate else None
    leaves = [None if t is None else t.clone().requires_grad_() for t in inputs]
    y, state = selective_scan_fn(*leaves, True, return_last_state=True)
    dout = torch.randn(b, d, l)
    expected = iter(torch.autograd.grad(y, [t for t in leaves if t is not None], dout))
    gradients = [None if t is None else next(expected) for t in leaves]
    scans = Scans(monkeypatch)
    out, x, *gated = selective_scan_cuda.fwd(*inputs, True)
    assert (scans.forward, scans.backward) == (1, 0)
    assert relative_error((gated or [out])[0], y.detach()) < 2e-6
    assert torch.equal(x[:, :, -1, 1::2], state.detach()) and not x[:, :, -1, ::2].any()
    dz = torch.empty(b, 2 * d, l).chunk(2, dim=1)[1]
    found = selective_scan_cuda.bwd(*inputs, dout, x.clone(), out if gate else None, dz if gate else None, True, True)
    assert (scans.forward, scans.backward) == (1, 1)
    order = (*gradients[:6], gradients[7], *((gradients[6], y.detach()) if gate else ()))
    assert len(found) == len(order) and (not gate or found[7] is dz)
    assert max(relative_error(a, e) for a, e in zip(found, order, strict=True)) < 5e-6


def test_without_x_and_out_the_scan_runs_again(monkeypatch):
    inputs = scan_inputs()
    dout = torch.randn(b, d, l)
    out, x, _ = selective_scan_cuda.fwd(*inputs, True)
    expected = selective_scan_cuda.bwd(*inputs, dout, x, out, None, True, True)
    found = selective_scan_cuda.bwd(*inputs, dout, None, None, None, True, True)
    assert max(relative_error(a, e) for a, e in zip(found, expected, strict=True)) < 2e-6


def test_half_precision_is_gated_in_float32():
    inputs = [t.half() if i in (0, 1, 3, 4, 6) else t for i, t in enumerate(scan_inputs())]
    out, _, gated = selective_scan_cuda.fwd(*inputs, True)
    assert out.dtype == gated.dtype == torch.float16
    assert relative_error(gated, selective_scan_fn(*[t.float() for t in inputs], True)) < 1e-3


def test_advice_on_forks(installed):
    with pytest.raises(TypeError) as unknown:
        import_module("mamba_ssm").selective_scan_fn(scan_type="zigzag")
    advice = forks.explain(unknown.value)
    assert (
        advice.startswith("ssmlab: selective_scan_fn(scan_type=...)") and "zigma" in advice and "PYTHONPATH" in advice
    )
    with pytest.raises(ImportError) as missing:
        exec("from mamba_ssm.ops.selective_scan_interface import of_a_fork")
    advice = forks.explain(missing.value)
    assert "mamba_ssm.ops.selective_scan_interface.of_a_fork has no counterpart" in advice and "\n" not in advice
    assert forks.explain(TypeError("f() got an unexpected keyword argument 'bimamba_type'")) is None
    assert forks.explain(ImportError("other")) is None and forks.explain(ValueError("other")) is None
    with pytest.raises(ModuleNotFoundError, match=r"no counterpart in ssmlab.*PYTHONPATH=FOLDER ssmlab exec"):
        import_module("mamba_ssm.ops.triton.of_a_fork")
