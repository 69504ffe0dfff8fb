"""The linear layer's product of many rows: torch's numbers and gradients, and torch's own call where somebody looks."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ops.common import relative_error
from ssmlab.ops import linear as module
from ssmlab.ops.linear import linear

onednn = pytest.mark.skipif(module.ONEDNN is None, reason="torch asks oneDNN itself, or has none, or no AVX-512")
SIZES = [(9000, 16, 24), (300, 65, 129), (1500, 33, 300), (1025, 300, 33), (40, 768, 80), (3, 1000, 1000)]


@pytest.fixture
def taken(monkeypatch):
    """The shapes of oneDNN's products."""
    shapes, product = [], module.ONEDNN

    def counted(x, *others):
        shapes.append(tuple(x.shape))
        return product(x, *others)

    if product is not None:
        monkeypatch.setattr(module, "ONEDNN", counted)
    return shapes


def arguments(rows, inputs, outputs, layout="contiguous"):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(2, rows, inputs, generator=generator)
    if layout == "channels first":
        x = x.mT.contiguous().mT
    elif layout == "every other":
        x = torch.stack([x, x], 1).flatten(0, 1)[::2]
    weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
    bias = torch.randn(outputs, generator=generator)
    return [t.requires_grad_() for t in (x, weight, bias)]


@onednn
@pytest.mark.parametrize("layout", ["contiguous", "channels first", "every other"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_numbers_and_gradients(taken, size, bias, layout):
    inputs = arguments(*size, layout)[: 2 + bias]
    y = linear(*inputs)
    expected = F.linear(*(t.double() for t in inputs))
    assert taken and relative_error(y.detach(), expected.detach()) < 1e-6
    for reduced in (lambda y: y.square().sum(), lambda y: y.sum(), lambda y: y.mT.contiguous().cos().sum()):
        found = torch.autograd.grad(reduced(linear(*inputs)), inputs)
        exact = torch.autograd.grad(reduced(F.linear(*(t.double() for t in inputs))), inputs)
        assert max(relative_error(a, b.double()) for a, b in zip(found, exact, strict=True)) < 2e-6


@onednn
def test_only_what_is_asked_for_gets_a_gradient(taken):
    x, weight, bias = arguments(300, 65, 129)
    (gx,) = torch.autograd.grad(linear(x, weight.detach()).sum(), x)
    (gweight,) = torch.autograd.grad(linear(x.detach(), weight).sum(), weight)
    (gbias,) = torch.autograd.grad(linear(x.detach(), weight.detach(), bias).sum(), bias)
    assert (gx.shape, gweight.shape, gbias.shape) == (x.shape, weight.shape, bias.shape)
    assert not linear(x.detach(), weight.detach(), bias.detach()).requires_grad


@onednn
def test_a_second_derivative(taken):
    x, weight, _ = arguments(300, 65, 129)

    def penalty(product):
        (g,) = torch.autograd.grad(product(x, weight).tanh().sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), (x, weight))

    for found, expected in zip(penalty(linear), penalty(F.linear), strict=True):
        assert relative_error(found, expected.double()) < 1e-5


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")
@torch.no_grad()
def test_whoever_looks_on_sees_torchs_call(taken, monkeypatch):
    x, weight, bias = arguments(300, 65, 129)
    with FlopCounterMode(display=False) as counter:
        linear(x, weight, bias)
    assert counter.get_total_flops() == 2 * 600 * 65 * 129
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    torch.func.vmap(lambda x: linear(x, weight, bias))(x)
    with torch.backends.mkldnn.flags(enabled=False):
        linear(x, weight, bias)
    monkeypatch.setenv("SSMLAB_BACKEND", "chunked")
    linear(x, weight, bias)
    assert linear(x.double(), weight.double(), bias.double()).dtype == torch.float64
    assert not taken


@torch.no_grad()
def test_a_small_product_and_a_wrong_shape_are_torchs(taken):
    x, weight, bias = arguments(4, 65, 129)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias)) and not taken
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        linear(torch.randn(1000, 300), torch.randn(300, 301))


@onednn
def test_the_same_bits_again(taken):
    inputs = arguments(1500, 33, 300)

    def results():
        return torch.autograd.grad(linear(*inputs).square().sum(), inputs)

    assert all(torch.equal(a, b) for a, b in zip(results(), results(), strict=True)) and taken


@onednn
def test_compiled_graphs_hold_it_and_exported_ones_do_not(taken):
    inputs = arguments(300, 65, 129)

    def results(product):
        return torch.autograd.grad(product(*inputs).square().sum(), inputs)

    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    found, expected = results(compiled), results(F.linear)
    assert all(relative_error(a, b.double()) < 2e-6 for a, b in zip(found, expected, strict=True))
    # torch 2.8's compiler calls everything an export: its graphs hold torch's product.
    export = torch.compile(lambda x: x + torch.compiler.is_exporting(), backend="eager")(torch.zeros(()))
    assert len(taken) == (0 if export else 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.compile(linear, fullgraph=True, backend="aot_eager")(*inputs).dtype == torch.bfloat16

    class Layer(torch.nn.Module):
        def forward(self, x, weight, bias):
            return linear(x, weight, bias)

    program = torch.export.export(Layer(), tuple(t.detach() for t in inputs))
    assert "aten.linear" in program.graph_module.code and "product" not in program.graph_module.code
