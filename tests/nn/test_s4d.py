"""The S4D block: laws, both views, its definition written out, initial values, refusals."""

import math

import laws
import pytest
import torch
from torch.nn import functional as F

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.nn import S4D, S4DState
from ssmlab.nn.eigenvalues import initial_A
from ssmlab.ops import discretize

CASES = [
    {},
    {"gate": False, "bias": True, "expand": 1},
    {"init": "inv", "discretization": "bilinear", "d_conv": 4},
    {"init": "real", "d_state": 3, "d_conv": 1},
    # dt A below -2: the discrete A is negative there
    {"init": "real", "d_state": 5, "discretization": "bilinear", "dt_min": 0.5, "dt_max": 2, "gate": False},
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def block(**options):
    """In float64, so that equal means equal."""
    return S4D(laws.WIDTH, **({"d_state": 6} | options)).double()


@pytest.mark.parametrize("options", CASES, ids=str)
def test_one_token_at_a_time_equals_whole(options):
    laws.one_by_one_equals_whole(block(**options))


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("cut", [1, 5, 8])
def test_halves_equal_whole_with_gradients_through_the_state(options, cut):
    laws.halves_equal_whole(block(**options), cut)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("kind", laws.MASKS)
@pytest.mark.parametrize("options", CASES, ids=str)
def test_padded_equals_alone(kind, options, with_state):
    laws.padded_equals_alone(block(**options), kind, with_state)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", CASES, ids=str)
def test_packed_sequences_equal_each_alone(options, masked, with_state):
    laws.packed_equals_each_alone(block(**options), masked, with_state)


def test_a_batch_of_padding_alone_keeps_the_state():
    model = block()
    _, state = model(laws.inputs())
    y, last = model(laws.inputs(), state, mask=torch.zeros(2, laws.LENGTH).bool())
    assert not y.any()
    laws.assert_close(last, state)


@pytest.mark.parametrize("options", [CASES[0], CASES[3]], ids=str)
def test_future_rows_precision_and_sub_modules(options):
    laws.one_sequence_is_continued(block(**options))
    laws.future_is_ignored_and_rows_are_independent(block(**options))
    laws.float32_is_close_to_float64(block(**options))
    laws.sub_modules_are_called(
        block(
            **options,
        ),
        ["in_proj", "out_proj"],
    )
    laws.half_precision_is_close(block(**options))


def test_the_convolution_is_a_sub_module():
    laws.sub_modules_are_called(block(d_conv=3), ["conv1d"])


@pytest.mark.parametrize("options", CASES, ids=str)
def test_equals_the_recurrence_written_out(options):
    model, u = block(**options), laws.inputs()
    x, z = model.in_proj(u).chunk(2, -1) if model.gate else (model.in_proj(u), None)
    x = x if model.conv1d is None else model.conv1d(x.mT)[0].mT
    A = -model.log_A_real.exp()
    A = A if model.A_imag is None else A + 1j * model.A_imag
    C = model.C if model.A_imag is None else torch.view_as_complex(model.C)
    a, b = discretize(model.log_dt.exp(), A, torch.ones_like(A), model.discretization)
    h, outputs = torch.zeros_like(a).expand(2, -1, -1), []
    for t in range(laws.LENGTH):
        h = a * h + b * x[:, t, :, None]
        y = (C * h).sum(-1)
        outputs.append((2 * y.real if y.is_complex() else y) + model.D * x[:, t])
    y = torch.stack(outputs, 1)
    expected = model.out_proj(F.gelu(y) if z is None else y * F.silu(z))
    got, state = model(u)
    laws.assert_close(got, expected)
    laws.assert_close(state.ssm, h)


def test_initial_values_are_the_papers():
    torch.testing.assert_close(initial_A(3, "lin").imag, torch.tensor([0, math.pi, 2 * math.pi]))
    torch.testing.assert_close(
        initial_A(2, "inv").imag, torch.tensor([4 / math.pi * (4 - 1), 4 / math.pi * (4 / 3 - 1)])
    )
    torch.testing.assert_close(initial_A(3, "real"), torch.tensor([-1.0, -2.0, -3.0]))
    model = S4D(512, d_state=4)
    assert torch.equal(model.log_A_real.exp(), torch.full((1024, 2), 0.5))
    dt = model.log_dt.exp()
    assert dt.min() >= 1e-3 * 0.999 and dt.max() <= 1e-1 * 1.001
    # complex normal: both parts together have variance 1, within four standard errors of 4,096 draws
    torch.testing.assert_close(model.C.square().sum(-1).mean(), torch.tensor(1.0), atol=4 / 45, rtol=0)
    assert "A_imag" not in S4D(8, init="real").state_dict()
    assert S4D(8, d_state=4, init="real").C.shape == (16, 4)


def test_half_precision_keeps_the_state_and_the_system():
    model = S4D(8, d_state=4).bfloat16()
    _, state = model(torch.randn(2, 5, 8).bfloat16())
    assert state.ssm.dtype == torch.complex64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_state": 0}, "d_state must be at least 1, got 0"),
        ({"d_state": 3}, "d_state must be even, got 3"),
        ({"d_conv": -1}, "d_conv must not be negative"),
        ({"init": "legs"}, "init must be one of lin, inv, real, got 'legs'"),
        ({"discretization": "euler"}, "zoh or bilinear, got 'euler'"),
        ({"dt_min": 0.2}, "dt_min <= dt_max"),
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
        ((u, S4DState(state.conv, state.ssm.mT)), "ssm_state must have shape"),
    ]:
        with pytest.raises(ShapeError, match=words):
            model(*arguments)
    with pytest.raises(ShapeError, match="seq_idx must have shape"):
        model(u, seq_idx=torch.zeros(2, 3).long())
