"""Linear layers: torch's numbers, gradients and names; whoever follows a call sees torch; weights of 8 bits."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from ops.common import relative_error
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.nn import GatedMLP, Linear, Mamba, Mamba2, QuantizedLinear, quantize_linear_
from ssmlab.ops import _native, linear

native = pytest.mark.skipif(_native.LIBRARY is None, reason=_native.MISSING or "")
IN, OUT = 300, 200


def pair(bias=True):
    torch.manual_seed(0)
    ours = Linear(IN, OUT, bias=bias)
    torch.manual_seed(0)
    return ours, nn.Linear(IN, OUT, bias=bias)


@pytest.fixture
def calls(monkeypatch):
    """Whether the kernel gave the result, call by call."""
    taken = []
    step = linear.linear_step

    def counted(*arguments):
        y = step(*arguments)
        taken.append(y is not None)
        return y

    monkeypatch.setattr(linear, "linear_step", counted)
    return taken


def test_names_and_initial_values_are_torchs():
    ours, theirs = pair()
    assert isinstance(ours, nn.Linear)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@native
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 8])
@torch.no_grad()
def test_few_rows(calls, bias, rows):
    ours, theirs = pair(bias)
    x = torch.randn(rows, 1, IN)
    assert relative_error(ours(x), theirs.double()(x.double())) < 1e-6
    assert calls == [True]


@torch.no_grad()
def test_more_rows_are_torchs(calls):
    ours, theirs = pair()
    x = torch.randn(10, IN)
    assert torch.equal(ours(x), theirs(x)) and calls == [False]


def test_gradients_are_torchs(calls):
    ours, theirs = pair()
    x = torch.randn(2, IN, requires_grad=True)
    found = torch.autograd.grad(ours(x).square().sum(), [x, *ours.parameters()])
    expected = torch.autograd.grad(theirs(x).square().sum(), [x, *theirs.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)) and not calls


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is (deprecated|not supported):FutureWarning")
@pytest.mark.parametrize("kind", [Linear, QuantizedLinear])
@torch.no_grad()
def test_whoever_follows_the_call_sees_torchs_product(calls, kind):
    layer, x = kind(IN, OUT), torch.randn(2, IN)
    y = nn.functional.linear(x, torch.zeros(OUT, IN), layer.bias) if kind is QuantizedLinear else layer(x)
    calls.clear()
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 2 * IN * OUT
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    exported = torch.export.export(layer, (x,)).module()
    traced = torch.jit.trace(layer, x)
    other = x + 1
    calls.clear()
    for way in (torch.func.vmap(layer), compiled, exported, traced):
        way(x)
        assert not calls
        assert relative_error(way(other), layer(other).double()) < 1e-6
        calls.clear()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent
    assert tangent is not None and tangent.shape == y.shape and not calls


@native
@torch.no_grad()
def test_a_changed_weight_is_seen(calls):
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    layer, x = Linear(IN, OUT, bias=False), torch.randn(1, IN)
    before = layer(x)
    parametrize.register_parametrization(layer, "weight", Doubled())
    assert relative_error(layer(x), 2 * before.double()) < 1e-6
    parametrize.remove_parametrizations(layer, "weight")
    layer.weight.data.mul_(2)
    assert relative_error(layer(x), 4 * before.double()) < 1e-6 and all(calls)


def rounded(layer: nn.Linear) -> QuantizedLinear:
    holder = quantize_linear_(nn.Sequential(copy.deepcopy(layer)))
    return holder[0]


def test_eight_bits_move_no_weight_by_more_than_half_a_scale():
    layer = Linear(IN, OUT)
    with torch.no_grad():
        layer.weight[3] = 0
        layer.weight[4] *= 1e-20
    q = rounded(layer)
    assert q.weight.dtype == torch.int8 and q.scale.dtype == torch.float32
    difference = q.weight.double() * q.scale.double()[:, None] - layer.weight.detach().double()
    assert (difference.abs() <= 0.5001 * q.scale.double()[:, None]).all()
    assert (q.weight[3] == 0).all() and (q.weight[4].abs().max() == 127)


@pytest.mark.parametrize("inputs", [1, 16, 33, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_eight_bits_times_few_and_many_rows(inputs, dtype):
    q = rounded(Linear(inputs, 37)).to(dtype)
    assert q.weight.dtype == torch.int8
    for rows in (1, 2, 7, 32, 33):
        x = torch.randn(rows, inputs).to(dtype)
        exact = nn.functional.linear(x.double(), q.weight.double() * q.scale.double()[:, None], q.bias.double())
        assert relative_error(q(x), exact) < (1e-6 if dtype is torch.float32 else 1e-2)


def test_a_gradient_passes_through_eight_bits():
    q, x = rounded(Linear(IN, OUT)), torch.randn(2, IN, requires_grad=True)
    q(x).sum().backward()
    assert relative_error(x.grad[0], (q.weight.double() * q.scale.double()[:, None]).sum(0)) < 1e-6
    assert q.bias.grad is not None


@pytest.mark.parametrize("name", ["mamba_lm_test", "mamba2_attention_lm_test", "s4d_lm_test", "transformer_lm_test"])
@torch.no_grad()
def test_a_language_model_of_eight_bits(name):
    torch.manual_seed(0)
    model = create_model(name).eval()
    q = quantize_linear_(copy.deepcopy(model))
    assert not any(isinstance(m, Linear) for m in q.modules())
    assert torch.equal(q.backbone.embedding.weight, model.backbone.embedding.weight), "the embedding keeps its weights"
    ids = torch.randint(0, 61, (2, 9))
    expected, found = model(ids)[0], q(ids)[0]
    assert 0 < relative_error(found, expected.double()) < 0.03
    file = io.BytesIO()
    torch.save(q.state_dict(), file)
    file.seek(0)
    again = quantize_linear_(create_model(name).eval())
    again.load_state_dict(torch.load(file))
    assert torch.equal(again(ids)[0], found)
    assert q.state_dict()["lm_head.weight"].dtype == torch.int8 and "lm_head.scale" in q.state_dict()


def test_skipped_layers_keep_their_weights():
    block = quantize_linear_(Mamba(16), skip=["dt_proj"])
    assert type(block.dt_proj) is Linear and type(block.x_proj) is QuantizedLinear
    with pytest.raises(ModelError, match="dt_porj.*dt_proj"):
        quantize_linear_(Mamba(16), skip=["dt_porj"])
    with pytest.raises(ModelError, match="no layers"):
        quantize_linear_(nn.Sequential(nn.Linear(2, 2)))
    shared = Linear(4, 4)
    twice = quantize_linear_(nn.ModuleList([shared, shared]))
    assert twice[0] is twice[1]


# One token of the blocks.
BLOCKS = {
    "mamba": lambda: Mamba(32),
    "mamba2": lambda: Mamba2(32, 16, headdim=8),
    "mamba2 groups": lambda: Mamba2(32, 16, headdim=8, ngroups=2, rmsnorm=False, dt_limit=(1e-3, 0.1)),
    "mamba2 wide D": lambda: Mamba2(32, 16, headdim=8, d_ssm=32, D_has_hdim=True),
}


@pytest.fixture(params=BLOCKS)
def block(request):
    torch.manual_seed(0)
    return BLOCKS[request.param]().eval()


@torch.no_grad()
def test_one_token_is_the_operators_and_leaves_the_state_alone(block, monkeypatch):
    _, state = block(torch.randn(3, 5, 32))
    before, u = copy.deepcopy(state), torch.randn(3, 1, 32)
    y, after = block(u, state)
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(state, after, strict=True))
    monkeypatch.setenv("SSMLAB_BACKEND", "reference")
    expected, last = copy.deepcopy(block).double()(u.double(), type(state)(*(t.double() for t in state)))
    assert relative_error(y, expected) < 2e-6
    assert all(relative_error(a, e) < 1e-6 for a, e in zip(after, last, strict=True))


@torch.no_grad()
def test_one_token_in_half_precision(block):
    exact, u = copy.deepcopy(block), torch.randn(2, 6, 32)
    block = block.to(torch.bfloat16)
    _, state = block(u[:, :5].bfloat16())
    y, after = block(u[:, 5:].bfloat16(), state)
    assert y.dtype == after.conv.dtype == torch.bfloat16 and after.ssm.dtype == torch.float32
    expected, last = exact(u)
    assert relative_error(y, expected[:, 5:].double()) < 3e-2 and relative_error(after.ssm, last.ssm.double()) < 3e-2


def test_one_token_with_a_gradient_has_it(block):
    with torch.no_grad():
        _, state = block(torch.randn(1, 5, 32))
    y, _ = block(torch.randn(1, 1, 32), state)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


class Scaled(nn.Module):
    """What an adapter does: another module in a layer's place, which calls it."""

    def __init__(self, base):
        super().__init__()
        self.base, self.count = base, 0

    def forward(self, *arguments, **options):
        self.count += 1
        y = self.base(*arguments, **options)
        return (y[0] * 1.5, *y[1:]) if isinstance(y, tuple) else y * 1.5


@pytest.mark.parametrize("name", ["in_proj", "conv1d", "x_proj", "dt_proj", "out_proj"])
@torch.no_grad()
def test_a_wrapped_layer_is_called_for_one_token(name):
    block, u = Mamba(32).eval(), torch.randn(1, 6, 32)
    setattr(block, name, Scaled(getattr(block, name)))
    whole, _ = block(u)
    _, state = block(u[:, :5])
    wrapper = getattr(block, name)
    count = wrapper.count
    y, _ = block(u[:, 5:], state)
    assert wrapper.count == count + 1 and relative_error(y, whole[:, 5:].double()) < 1e-5


@torch.no_grad()
def test_a_hook_on_the_convolution_is_called_for_one_token(block):
    seen = []
    handle = block.conv1d.register_forward_hook(lambda module, inputs, output: seen.append(1))
    _, state = block(torch.randn(1, 5, 32))
    block(torch.randn(1, 1, 32), state)
    assert len(seen) == 2
    handle.remove()


@torch.no_grad()
def test_a_changed_A_is_seen_by_the_next_token():
    block, u = Mamba(32).eval(), torch.randn(1, 6, 32)

    def agrees():
        _, state = block(u[:, :5])
        block(u[:, 5:], state)
        yield
        y, _ = block(u[:, 5:], state)
        fresh = copy.deepcopy(block)
        expected, _ = fresh(u[:, 5:], state)
        assert torch.equal(y, expected)

    def change(how):
        check = agrees()
        next(check)
        how()
        next(check, None)

    change(lambda: block.A_log.mul_(0.5))
    change(lambda: setattr(block, "A_log", nn.Parameter(block.A_log + 1)))
    change(lambda: setattr(block.A_log, "data", block.A_log.data + 1))
    change(lambda: block.load_state_dict(Mamba(32).state_dict()))

    class Shifted(nn.Module):
        shift = 0.0

        def forward(self, A_log):
            return A_log + self.shift

    adapter = Shifted()
    parametrize.register_parametrization(block, "A_log", adapter)
    change(lambda: setattr(adapter, "shift", 0.7))


def test_parameters_made_in_inference_mode():
    with torch.inference_mode():
        block = Mamba(32).eval()
        _, state = block(torch.randn(1, 5, 32))
        y, _ = block(torch.randn(1, 1, 32), state)
    assert y.isfinite().all()


@torch.no_grad()
def test_the_mlp_asks_the_kernel(calls):
    GatedMLP(64, 300)(torch.randn(1, 1, 64))
    assert len(calls) == 2
