"""What torch must be able to do with the operators: check, compile, export, vmap, count."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ops.test_causal_conv1d import make as make_conv
from ops.test_selective_scan import make as make_scan
from ops.test_selective_scan import positional
from ssmlab.ops import _native, causal_conv1d, selective_scan
from ssmlab.ops._torch import one_by_one

pytestmark = pytest.mark.skipif(bool(_native.MISSING), reason="the native library was not built")


def scan_arguments(absent=()):
    a = make_scan(2, 20, 70, 5, absent=absent)
    return positional({k: None if t is None else t.float() for k, t in a.items()})


def conv_arguments(absent=()):
    a = {k: None if t is None else t.float() for k, t in make_conv(2, 20, 70, 4, absent=absent).items()}
    return a["x"], a["weight"], a["bias"], "silu", a["initial_state"], None


@pytest.mark.parametrize("absent", [(), ("D", "z", "dt_bias", "initial_state")])
@pytest.mark.parametrize("save", [True, False])
def test_opcheck_scan(absent, save):
    arguments = scan_arguments(absent)
    torch.library.opcheck(torch.ops.ssmlab.selective_scan, (*arguments, save, "native"))
    y, state, saved = torch.ops.ssmlab.selective_scan(*arguments, True, "native")
    torch.library.opcheck(torch.ops.ssmlab.selective_scan_backward, (y, state, saved, *arguments, "native"))


@pytest.mark.parametrize("form", [{"groups": 4}, {"constant": "BC"}])
def test_opcheck_scan_maps(form):
    arguments = positional({k: t.float() for k, t in make_scan(2, 20, 70, 5, **form).items()}, dt_softplus=False)
    y, state, saved = torch.ops.ssmlab.selective_scan(*arguments, True, "native")
    torch.library.opcheck(torch.ops.ssmlab.selective_scan_backward, (y, state, saved, *arguments, "native"))


@pytest.mark.parametrize("absent", [(), ("bias", "initial_state")])
def test_opcheck_conv(absent):
    arguments = conv_arguments(absent)
    torch.library.opcheck(torch.ops.ssmlab.causal_conv1d, (*arguments, "native"))
    y, state = torch.ops.ssmlab.causal_conv1d(*arguments, "native")
    torch.library.opcheck(torch.ops.ssmlab.causal_conv1d_backward, (y, state, *arguments))


def block(x, dt, A, B, C, weight):
    x, _ = causal_conv1d(x, weight, activation="silu")
    return selective_scan(x, dt, A, B, C, dt_softplus=True)[0]


def test_compiles_without_graph_breaks():
    x, dt, A, B, C, *_ = scan_arguments()
    leaves = [t.requires_grad_() for t in (x, dt, A, B, C, torch.randn(20, 4))]
    exact = torch.autograd.grad(block(*leaves).sin().sum(), leaves)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    for found, gradient in zip(torch.autograd.grad(compiled(*leaves).sin().sum(), leaves), exact, strict=True):
        torch.testing.assert_close(found, gradient)


def test_exports_with_a_dynamic_length():
    class Block(torch.nn.Module):
        def forward(self, *arguments):
            return block(*arguments)

    arguments = (*scan_arguments()[:5], torch.randn(20, 4))
    length = torch.export.Dim("length", min=2, max=4096)
    shapes = ({2: length}, {2: length}, None, {2: length}, {2: length}, None)
    with torch.no_grad():
        program = torch.export.export(Block(), arguments, dynamic_shapes=(shapes,))
        longer = [torch.cat([t, t], dim=-1) if i in (0, 1, 3, 4) else t for i, t in enumerate(arguments)]
        torch.testing.assert_close(program.module()(*longer), block(*longer))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is (deprecated|not supported):FutureWarning")  # forward mode
def test_functional_gradients_and_vmap():
    x, dt, A, B, C, *_ = scan_arguments()

    def loss(A, x, backend=None):
        return selective_scan(x, dt[:1], A, B[:1], C[:1], backend=backend)[0].sin().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(A, x[:, None])
    for i in range(2):
        torch.testing.assert_close(each[i], torch.func.grad(loss)(A, x[i : i + 1]))
    torch.testing.assert_close(torch.func.grad(lambda A: loss(A, x[:1], "chunked"))(A), each[0], atol=1e-4, rtol=1e-4)
    with pytest.raises(RuntimeError, match="forward|jvp"):  # never a silent zero tangent
        torch.func.jvp(lambda A: loss(A, x[:1]), (A,), (A,))


def test_vmap_leaves_a_list_of_numbers_whole():
    rule = one_by_one(lambda x, limits: x.clamp(*limits))
    found, axis = rule(SimpleNamespace(batch_size=2), (1, [None, None]), torch.arange(6.0).view(3, 2), [1.0, 4.0])
    assert axis == 0 and found.tolist() == [[1, 2, 4], [1, 3, 4]]


@pytest.mark.parametrize("backend", ["native", "chunked", "reference"])
def test_the_scan_is_counted(backend):
    x, dt, A, B, C, *_ = scan_arguments()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        selective_scan(x, dt, A, B, C, backend=backend)
        causal_conv1d(x, torch.randn(20, 4))
    b, d, l = x.shape
    assert counter.get_total_flops() == 2 * (9 * b * d * l * A.shape[1] + b * d * l) + 2 * b * d * l * 4


def test_autocast_mixes_dtypes():
    x, dt, A, B, C, *_ = scan_arguments()
    exact, _ = selective_scan(x, dt, A, B, C, dt_softplus=True)
    y, state = selective_scan(x.bfloat16(), dt.bfloat16(), A, B.bfloat16(), C.bfloat16(), dt_softplus=True)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert float((y.float() - exact).norm() / exact.norm()) < 1e-2
