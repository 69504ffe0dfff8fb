"""Hidden attention: the matrix times the input is what the operator returned, for every operator and every family."""

import pytest
import torch
from torch import nn

from ssmlab.core.errors import ModelError
from ssmlab.interpret import attention
from ssmlab.interpret.capture import scans_of
from ssmlab.models import create_model
from ssmlab.models.language.inspection import inspect
from ssmlab.nn import S4D, Bidirectional, Mamba, Mamba2
from ssmlab.nn.windows import from_windows
from ssmlab.ops import selective_scan

FAMILIES = {
    "resnet_mamba_test": {},
    "resnet_mamba_test two scales": {"scales": 2},
    "vmamba_test": {"d_state": 3, "gate": True},
    "medmamba_test": {},
    "mambavision_test": {},
    "vim_test": {},
    "vim_test v1": {"scans": "v1"},
    "vim_test none": {"scans": "none", "class_token": "none"},
}
LIMIT = {torch.float32: 1e-5, torch.float64: 1e-12}


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


def check(call, dtype=torch.float32):
    assert error(call.rebuilt(), call.y) < LIMIT[dtype]
    if call.op != "lti" and call.paths[0].first is None and call.paths[0].run is None:
        product = torch.einsum("rcql,rcpl->rcpq", call.attention(), call.x)
        assert error(product, sum(alone(call, path) for path in call.paths)) < LIMIT[dtype]


def alone(call, path):
    """The operator without skip and gate, its output in the order of the tokens."""
    x = call.x[..., path.order].flatten(1, 2)
    p, n = call.x.shape[2], path.B.shape[2]
    dt, B, C = (t.repeat_interleave(p, 1) for t in (path.dt, path.B, path.C))
    A = path.A.expand(-1, n).repeat_interleave(p, 0)
    if A.is_complex():
        B, C = (torch.view_as_real(t.contiguous()).flatten(-2) for t in (B, C))
    y, _ = selective_scan(x, dt, A, B, C)
    return torch.empty_like(y).index_copy_(2, path.order, y).view_as(call.x)


def family(case, dtype=torch.float32):
    torch.manual_seed(0)
    name = case.split()[0]
    size = 72 if name == "mambavision_test" else 32
    model = create_model(name, num_classes=5, image_size=size, **FAMILIES[case]).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # D, norms and A_log start equal in all channels
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    width = size if name == "resnet_mamba_test" else size + 8
    return model, torch.randn(2, 3, size, width, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", LIMIT, ids=str)
@pytest.mark.parametrize("case", FAMILIES)
def test_attention_times_input_is_the_scan(case, dtype):
    model, images = family(case, dtype)
    calls = scans_of(model, images)
    assert calls and not any(call.y.requires_grad for call in calls)
    for call in calls:
        check(call, dtype)
        assert call.place is not None and call.to_map(call.step_sizes()).shape == (2, *call.place.grid)


def test_the_matrix_is_the_product_of_the_decays():
    torch.manual_seed(0)
    block = Mamba(8, d_state=3).double()
    u = torch.randn(1, 6, 8).double()
    (call,) = scans_of(block, u)
    (path,) = call.paths
    alpha = call.attention()
    for i in range(6):
        for j in range(6):
            product = torch.ones_like(path.A)
            for k in range(j + 1, i + 1):
                product = product * torch.exp(path.dt[0, :, k, None] * path.A)
            dt = path.dt[0, :, j]
            wanted = (path.C[0, :, :, i] * product * path.B[0, :, :, j]).sum(-1) * dt * (j <= i)
            torch.testing.assert_close(alpha[0, :, i, j], wanted)


SEQUENCES = {
    "mamba": lambda: Mamba(8, d_state=3),
    "mamba2": lambda: Mamba2(8, d_state=5, headdim=4, ngroups=2, D_has_hdim=True),
    "mamba2 gated": lambda: Mamba2(8, d_state=5, headdim=4, rmsnorm=False, dt_limit=(0.01, 0.05)),
    "s4d": lambda: S4D(8, 6),
    "s4d real": lambda: S4D(8, 4, init="real", d_conv=3),
    "s4d bilinear": lambda: S4D(8, 6, init="real", discretization="bilinear", dt_min=0.5, dt_max=1.0, gate=False),
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_blocks_for_sequences(kind):
    torch.manual_seed(0)
    block = SEQUENCES[kind]().double()
    u = torch.randn(2, 9, 8).double()
    (call,) = scans_of(block, u)
    check(call, torch.float64)
    _, state = block(u)
    (later,) = scans_of(block, u, state)  # an initial state adds its part
    assert later.paths[0].first is not None
    assert error(later.rebuilt(), later.y) < 1e-12 < error(call.rebuilt(), later.y)
    torch.testing.assert_close(call.attention([3, 8], slice(1, 3)), call.attention()[:, 1:3, [3, 8]])
    torch.testing.assert_close(call.mean_attention([5]), call.attention([5]).abs().mean(1))


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_packed_rows_do_not_see_each_other(kind):
    torch.manual_seed(0)
    block = SEQUENCES[kind]().double()
    seq_idx = torch.tensor([[4, 4, 4, 2, 2, 4, 4], [0, 0, 0, 0, 0, 0, 1]])
    (call,) = scans_of(block, torch.randn(2, 7, 8).double(), seq_idx=seq_idx)
    check(call, torch.float64)
    alpha = call.attention()
    assert not alpha[0, :, 5, :5].any() and alpha[0, :, 6, 5:].all() and not alpha[1, :, 6, :6].any()


class Plain(nn.Module):
    """The operator with a complex A and groups, as no block of ours calls it."""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.complex(-torch.rand(4, 3) - 0.1, torch.randn(4, 3)).to(torch.complex128))

    def forward(self, x, dt, B, C):
        return selective_scan(x, dt, self.A, B, C, dt_softplus=True, dt_bias=torch.ones(4).double())[0]


def test_a_complex_operator_with_groups():
    torch.manual_seed(0)
    x, dt = torch.randn(2, 4, 5).double(), torch.randn(2, 4, 5).double()
    B, C = torch.randn(2, 2, 3, 10).double(), torch.randn(2, 2, 3, 10).double()
    (call,) = scans_of(Plain(), x, dt, B, C)
    assert not call.skip().any() and call.gate is None and call.place is None
    check(call, torch.float64)


def test_both_directions_are_in_the_order_of_the_sequence():
    torch.manual_seed(0)
    same = Mamba(8, d_state=3)
    for block in (Bidirectional(same, Mamba(8, d_state=3)), Bidirectional(same, same)):
        ahead, back = scans_of(block.double(), torch.randn(1, 6, 8).double())
        assert [call.paths[0].direction for call in (ahead, back)] == ["forward", "backward"]
        below, above = torch.ones(6, 6).tril().bool(), torch.ones(6, 6).triu().bool()
        assert torch.equal(ahead.attention()[0, 3] != 0, below) and torch.equal(back.attention()[0, 3] != 0, above)
        check(back, torch.float64)


def test_small_blocks_give_the_same(monkeypatch):
    model, images = family("vmamba_test")
    call = scans_of(model, images)[0]
    whole = call.attention(), call.attended(), call.mean_attention([1, 7])
    monkeypatch.setattr(attention, "ENTRIES", 700)
    torch.testing.assert_close((call.attention(), call.attended(), call.mean_attention([1, 7])), whole)
    assert call.mean_attention([1]).min() > 0  # four directions: a position sees the whole map


def test_states_are_those_of_the_block():
    torch.manual_seed(0)
    model = create_model("mamba_lm_test").eval()
    ids = torch.randint(0, 61, (2, 7))
    with inspect(model) as seen:
        model(ids)
    for own, call in zip(seen, scans_of(model, ids), strict=True):
        assert own.name == call.name
        torch.testing.assert_close(call.state_norms(), own.states().norm(dim=-1).mean(-1))
        torch.testing.assert_close(call.step_sizes(), own.dt.mean(-1))


def test_tokens_have_their_places():
    model, images = family("mambavision_test")
    call = scans_of(model, images, layers="levels.2.*")[0]
    assert call.place.grid == (5, 5) and call.x.shape[::3] == (8, 16)
    values = call.x[:, :, 0]
    torch.testing.assert_close(call.to_map(values), from_windows(values.mT, 4, 5, 5))
    rows, token = call.place.token_at(0, 4)
    assert rows.tolist() == [1, 5] and token == 0  # the first token of the second window

    model, images = family("vim_test")
    call = scans_of(model, images)[1]
    assert call.place.grid == (4, 5) and call.place.pixel[0].tolist() == [*range(10), -1, *range(10, 20)]
    mapped = call.to_map(torch.arange(21).expand(2, 21))
    assert mapped[0].flatten().tolist() == [*range(10), *range(11, 21)]
    with pytest.raises(IndexError, match="row 7"):
        call.place.token_at(7, 0)


def test_layers_are_chosen_and_models_without_scans_refused():
    model, images = family("vim_test")
    assert [call.name for call in scans_of(model, images, layers="*.1.mixer")] == ["layers.1.mixer"] * 2
    with pytest.raises(ModelError, match=r"Vim ran no scan in layers 'nowhere\*'"):
        scans_of(model, images, layers="nowhere*")
    model.train()
    scans_of(model, images)
    assert model.training and not any(module._forward_hooks for module in model.modules())
