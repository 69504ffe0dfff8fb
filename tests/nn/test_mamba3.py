"""The Mamba-3 block: laws, its definition, names, initial values, the activation of A, refusals."""

import laws
import pytest
import torch
from torch.nn import functional as F

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.nn import Mamba3, Mamba3State
from ssmlab.nn.mamba3 import heavy_tail
from ssmlab.ops import mamba3

CASES = [
    {},
    {"ngroups": 2, "rope_fraction": 1, "outproj_norm": True, "A_activation": "softplus"},
    {"mimo_rank": 3, "chunk_size": 4},
    {"mimo_rank": 2, "outproj_norm": True, "expand": 1, "A_floor": 1.5},
    {"mimo_rank": 1, "rope_fraction": 1},
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def block(**options):
    """In float64, so that equal means equal; large steps, so that everything turns, and no weight is one."""
    model = Mamba3(laws.WIDTH, **({"d_state": 6, "headdim": 4, "dt_min": 0.05, "dt_max": 1} | options)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("options", CASES, ids=str)
def test_one_token_at_a_time_equals_whole(options):
    laws.one_by_one_equals_whole(block(**options))


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("cut", [1, 5, 8])
def test_halves_equal_whole_with_gradients_through_the_state(options, cut):
    laws.halves_equal_whole(block(**options), cut)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("kind", laws.MASKS)
@pytest.mark.parametrize("options", CASES[:4], ids=str)
def test_padded_equals_alone(kind, options, with_state):
    laws.padded_equals_alone(block(**options), kind, with_state)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", CASES[:3], ids=str)
def test_packed_sequences_equal_each_alone(options, masked, with_state):
    laws.packed_equals_each_alone(block(**options), masked, with_state)


@pytest.mark.parametrize("options", CASES[1:3], ids=str)
def test_future_rows_precision_and_sub_modules(options):
    laws.one_sequence_is_continued(block(**options))
    laws.future_is_ignored_and_rows_are_independent(block(**options))
    laws.float32_is_close_to_float64(block(**options), 3e-6)
    norm = ["norm"] if options.get("outproj_norm") else []
    laws.sub_modules_are_called(block(**options), ["in_proj", "B_norm", "C_norm", *norm, "out_proj"])
    laws.half_precision_is_close(block(**options))


@pytest.mark.parametrize("options", CASES, ids=str)
def test_equals_the_definition_with_the_gate_behind_the_norm(options):
    model, u = block(**options), laws.inputs()
    h, p, r, g, n = model.nheads, model.headdim, model.mimo_rank, model.ngroups, model.d_state
    sizes = [h * p, h * p, r * g * n, r * g * n, h, h, h, model.num_angles]
    z, x, B, C, dt, A, trap, angle = model.in_proj(u).split(sizes, dim=-1)
    B, C = (
        F.rms_norm(t.unflatten(-1, (r, g, n)), (n,), eps=1e-5) * norm.weight
        for t, norm in ((B, model.B_norm), (C, model.C_norm))
    )
    dt = F.softplus(dt + model.dt_bias)
    rate = F.softplus(A) if model.A_activation == "softplus" else torch.where(A > 0, 1 + A, 1 / (1 - A))
    log_decay = -torch.maximum(rate, torch.tensor(model.A_floor)) * dt
    weights = {"mimo_x": model.mimo_x} if model.mimo else {}
    y, state = mamba3(
        x.unflatten(-1, (h, p)), dt, log_decay, trap, B, C, angle, model.D, B_bias=model.B_bias, C_bias=model.C_bias,
        pairs="halves" if model.mimo else "interleaved", backend="reference", **weights,
    )  # fmt: skip
    gate = z.unflatten(-1, (h, p))
    if model.mimo:
        gate = torch.einsum("blhp,hrp->blrhp", gate, model.mimo_z)
    if model.norm is not None:
        y = F.rms_norm(y, (p,), eps=1e-5) * model.norm.weight.view(h, p)
    y = y * F.silu(gate)
    if model.mimo:
        y = torch.einsum("blrhp,hrp->blhp", y, model.mimo_o)
    got, last = model(u)
    laws.assert_close(got, model.out_proj(y.flatten(2)))
    laws.assert_close(last, Mamba3State(state.angle.remainder(2 * torch.pi), *state[1:]))


def test_names_and_layouts_are_upstreams():
    model = Mamba3(32, d_state=8, headdim=8, ngroups=2, mimo_rank=3, outproj_norm=True)
    assert {name: tuple(p.shape) for name, p in model.state_dict().items()} == {
        "dt_bias": (8,),
        "B_bias": (8, 3, 8),
        "C_bias": (8, 3, 8),
        "mimo_x": (8, 3, 8),
        "mimo_z": (8, 3, 8),
        "mimo_o": (8, 3, 8),
        "D": (8,),
        "in_proj.weight": (2 * 64 + 2 * 3 * 2 * 8 + 3 * 8 + 2, 32),
        "B_norm.weight": (8,),
        "C_norm.weight": (8,),
        "norm.weight": (64,),
        "out_proj.weight": (32, 64),
    }
    siso = Mamba3(32, d_state=8, headdim=8, rope_fraction=1).state_dict()
    assert not any(name.startswith(("mimo", "norm")) for name in siso)
    assert siso["in_proj.weight"].shape == (2 * 64 + 2 * 8 + 3 * 8 + 4, 32)


def test_initial_values_are_the_published_ones():
    model = Mamba3(512, headdim=1, mimo_rank=4)
    dt = F.softplus(model.dt_bias).detach()
    assert dt.min() >= 1e-3 * 0.999 and dt.max() <= 1e-1 * 1.001
    torch.testing.assert_close(dt.log().mean(), torch.tensor(1e-2).log(), atol=4 * 1.33 / 32, rtol=0)
    for name, value in {"B_bias": 1, "C_bias": 1, "mimo_x": 0.25, "mimo_z": 1, "mimo_o": 0.25, "D": 1}.items():
        assert bool((model.get_parameter(name) == value).all()), name


def test_the_two_activations_of_A_differ():
    """The published code changed it, so weights must say which one they were trained with."""
    old, new = (block(A_activation=name) for name in ("softplus", "heavy_tail"))
    old.load_state_dict(new.state_dict())
    u = laws.inputs()
    assert (old(u)[0] - new(u)[0]).abs().max() > 1e-3
    x = torch.tensor([-4.0, 0.0, 2.0])
    torch.testing.assert_close(heavy_tail(x), torch.tensor([0.2, 1.0, 3.0]))


def test_the_angle_stays_small_in_a_long_text():
    for options in CASES[::2]:
        _, state = block(**options)(laws.inputs(length=300))
        assert state.angle.min() >= 0 and state.angle.max() < 6.284


def test_dropout_acts_on_the_output_while_training():
    model, u = block(dropout=0.5), laws.inputs()
    assert 0.2 < (model(u)[0] == 0).double().mean() < 0.8
    assert not (model.eval()(u)[0] == 0).any()


def test_the_state_is_float32_in_half_precision():
    _, state = Mamba3(8, d_state=4, headdim=4).bfloat16()(torch.randn(2, 5, 8).bfloat16())
    assert {part.dtype for part in state} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_state": 0}, "d_state must be at least 1, got 0"),
        ({"d_state": 3}, "d_state=3 has no pairs to turn"),
        ({"headdim": 5}, "headdim must divide the 16 inner channels.*the nearest that do are 2, 4, 8"),
        ({"ngroups": 3}, "ngroups must divide the 4 heads, got 3"),
        ({"mimo_rank": 0}, "mimo_rank must be at least 1, got 0"),
        ({"mimo_rank": 2, "d_state": 5}, "d_state=5 has no pairs"),
        ({"rope_fraction": 0.3}, "rope_fraction must be 0.5 or 1, got 0.3"),
        ({"A_activation": "exp"}, "A_activation must be heavy_tail or softplus, got 'exp'"),
        ({"A_floor": -1}, "A_floor must not be negative"),
        ({"dt_min": 2}, "dt_min <= dt_max"),
    ],
)
def test_wrong_sizes_are_refused(options, words):
    with pytest.raises(ModelError, match=words):
        block(**options)


def test_wrong_arguments_are_refused():
    model, u = block(), laws.inputs()
    _, state = model(u)
    for arguments, words in [
        ((u[..., :-1],), "u must have shape"),
        ((u, state._replace(k=state.k[:1])), "k_state must have shape"),
        ((u, state._replace(ssm=state.ssm.mT)), "ssm_state must have shape"),
    ]:
        with pytest.raises(ShapeError, match=words):
            model(*arguments)
    with pytest.raises(ShapeError, match=r"mask\.bool\(\)"):
        model(u, mask=torch.ones(2, laws.LENGTH))
