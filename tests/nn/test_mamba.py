"""The laws of the Mamba block (step = whole, halves = whole, padded = alone, packed = alone), names, initial values."""

import threading

import pytest
import torch
from torch import nn

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.nn import Mamba, MambaState

WIDTH, LENGTH = 6, 9
CASES = [
    {},
    {"d_conv": 1, "expand": 1},
    {"d_state": 1, "dt_rank": 3, "bias": True},
    {"conv_bias": False, "d_conv": 2},
    {"d_state": 4, "init": "lin"},
]
MASKS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1, 1]],
    "right": [[1, 1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 0]],
    "gaps": [[0, 1, 0, 0, 1, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0, 1, 0, 1]],
    "one row full, one empty": [[1] * 9, [0] * 9],
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def block(**options):
    """In float64, so that equal means equal."""
    return Mamba(WIDTH, **({"d_state": 3} | options)).double()


def inputs(batch=2, length=LENGTH):
    return torch.randn(batch, length, WIDTH, dtype=torch.float64)


def random_state(model, batch=2):
    return MambaState(
        torch.randn(batch, model.d_inner, model.d_conv - 1, dtype=torch.float64),
        torch.randn(
            batch, model.d_inner, model.kept, dtype=torch.complex128 if model.A_imag is not None else torch.float64
        ),
    )


def assert_close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_one_token_at_a_time_equals_whole(options):
    model, u = block(**options), inputs()
    whole, last = model(u)
    state, outputs = None, []
    for t in range(LENGTH):
        y, state = model(u[:, t : t + 1], state)
        outputs.append(y)
    assert_close(torch.cat(outputs, 1), whole)
    assert_close(state, last)


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("cut", [1, 2, 5, 8])
def test_halves_equal_whole_with_gradients_through_the_state(options, cut):
    model, u = block(**options), inputs().requires_grad_()
    weight = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)

    def gradients(y, state):
        loss = (y * weight).sum() + state.ssm.abs().square().sum() + state.conv.square().sum()
        return torch.autograd.grad(loss, [u, *model.parameters()])

    first, state = model(u[:, :cut])
    second, state = model(u[:, cut:], state)
    whole, last = model(u)
    assert_close(torch.cat([first, second], 1), whole)
    assert_close(state, last)
    assert_close(gradients(torch.cat([first, second], 1), state), gradients(whole, last))


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("options", [*CASES[:2], CASES[-1]], ids=str)
def test_padded_equals_alone(kind, options, with_state):
    model, mask = block(**options), torch.tensor(MASKS[kind]).bool()
    initial = random_state(model) if with_state else None
    u = inputs().requires_grad_()
    weight = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    y, state = model(u.masked_fill(~mask[..., None], float("nan")), initial, mask=mask)
    assert torch.equal(y[~mask], torch.zeros_like(y[~mask]))
    padded_loss, alone_loss = (y * weight).sum() + state.ssm.abs().sum() + state.conv.square().sum(), 0.0
    for row in range(2):
        own = None if initial is None else MambaState(*(part[row : row + 1] for part in initial))
        if not mask[row].any():
            expected = own or MambaState(torch.zeros_like(state.conv[:1]), torch.zeros_like(state.ssm[:1]))
            assert_close(MambaState(state.conv[row : row + 1], state.ssm[row : row + 1]), expected)
            alone_loss = alone_loss + expected.ssm.abs().sum() + expected.conv.square().sum()
            continue
        alone, last = model(u[row : row + 1, mask[row]], own)
        assert_close(y[row, mask[row]], alone[0])
        assert_close(MambaState(state.conv[row : row + 1], state.ssm[row : row + 1]), last)
        alone_loss = (
            alone_loss + (alone * weight[row, mask[row]]).sum() + last.ssm.abs().sum() + last.conv.square().sum()
        )
    wanted = [u, *model.parameters()]
    assert_close(torch.autograd.grad(padded_loss, wanted), torch.autograd.grad(alone_loss, wanted))


def test_a_full_mask_changes_nothing():
    model, u = block(), inputs()
    for got, expected in zip(model(u, mask=torch.ones(2, LENGTH).bool()), model(u), strict=True):
        assert_close(got, expected)


def test_decoding_continues_a_padded_prompt():
    model, u, mask = block(), inputs(), torch.tensor(MASKS["left"]).bool()
    token = inputs(length=1)
    _, state = model(u, mask=mask)
    y, _ = model(token, state)
    for row in range(2):
        alone, _ = model(torch.cat([u[row, mask[row]], token[row]])[None])
        assert_close(y[row, 0], alone[0, -1])


@pytest.mark.parametrize("masked", [False, True])
def test_packed_sequences_equal_each_alone(masked):
    model = block()
    parts = [inputs(1, length) for length in (4, 1, 5)]
    # the same number twice, apart: a new sequence begins wherever the number changes
    index = torch.tensor([[7] * 4 + [2] + [7] * 5])
    u, mask = torch.cat(parts, 1), None
    if masked:  # padding with numbers of its own before, between and behind
        gap = torch.tensor([True] * 2 + [False] * 4 + [True] + [False] * 6 + [True] * 2)
        mask = ~gap[None]
        wide, numbers = torch.randn(1, 15, WIDTH, dtype=torch.float64), torch.full((1, 15), 99)
        wide[mask], numbers[mask] = u[0], index[0]
        u, index = wide, numbers
    y, state = model(u, mask=mask, seq_idx=index)
    y = y if mask is None else y[mask][None]
    alone = [model(part) for part in parts]
    assert_close(y, torch.cat([out for out, _ in alone], 1))
    assert_close(state, alone[-1][1])


def test_short_last_sequence_keeps_no_inputs_of_the_one_before():
    model, u = block(), inputs(1)
    index = torch.tensor([[0] * 8 + [1]])
    mask = torch.ones(1, LENGTH).bool()
    for state in (model(u, seq_idx=index)[1], model(u, seq_idx=index, mask=mask)[1]):
        assert not state.conv[..., :-1].any()
        assert state.conv[..., -1].any()


def test_future_is_ignored_and_rows_are_independent():
    model, u = block(), inputs()
    changed = u.clone()
    changed[0, 5:] += 1
    y, other = model(u)[0], model(changed)[0]
    assert torch.equal(y[1], other[1])
    assert torch.equal(y[0, :5], other[0, :5])
    assert not torch.allclose(y[0, 5:], other[0, 5:])


def test_names_and_layouts_are_upstreams():
    shapes = {name: tuple(p.shape) for name, p in Mamba(32, d_state=5, d_conv=3, expand=2).state_dict().items()}
    assert shapes == {
        "in_proj.weight": (128, 32),
        "conv1d.weight": (64, 1, 3),
        "conv1d.bias": (64,),
        "x_proj.weight": (2 + 2 * 5, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "A_log": (64, 5),
        "D": (64,),
        "out_proj.weight": (32, 64),
    }
    assert "in_proj.bias" in Mamba(8, bias=True).state_dict()
    assert "conv1d.bias" not in Mamba(8, conv_bias=False).state_dict()


def test_initial_values_are_the_published_ones():
    model = Mamba(512, d_state=4, dt_min=1e-3, dt_max=1e-1)
    torch.testing.assert_close(-model.A_log.exp(), -torch.arange(1.0, 5.0).repeat(1024, 1))
    assert torch.equal(model.D, torch.ones(1024))
    dt = torch.nn.functional.softplus(model.dt_proj.bias).detach()
    assert dt.min() > 1e-3 * 0.999
    assert dt.max() < 1e-1 * 1.001
    # log-uniform: the quartiles of 1,024 draws lie within four standard errors of where they belong
    quartiles = (dt.log().quantile(torch.tensor([0.25, 0.5, 0.75])) - torch.tensor(1e-3).log()) / torch.tensor(
        100.0
    ).log()
    torch.testing.assert_close(quartiles, torch.tensor([0.25, 0.5, 0.75]), atol=0.06, rtol=0)
    bound = 32**-0.5
    weight = model.dt_proj.weight
    assert bound * 0.99 < weight.abs().max() <= bound
    floored = Mamba(8, dt_init_floor=0.05, dt_max=0.04).dt_proj.bias
    torch.testing.assert_close(torch.nn.functional.softplus(floored), torch.full((16,), 0.05))


def test_parameters_lie_on_the_default_device(monkeypatch):
    monkeypatch.setattr(torch, "_GLOBAL_DEVICE_CONTEXT", threading.local())  # torch 2.8 keeps a wrong one
    torch.set_default_device("meta")
    try:
        assert {p.device.type for p in Mamba(8).parameters()} == {"meta"}
    finally:
        torch.set_default_device(None)
    assert {p.device.type for p in Mamba(8).parameters()} == {"cpu"}


def test_convolution_starts_like_torchs():
    model = Mamba(256, d_conv=4)
    reference = nn.Conv1d(512, 512, 4, groups=512)
    for name in ("weight", "bias"):
        ours, theirs = getattr(model.conv1d, name), getattr(reference, name)
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours.std(), theirs.std(), rtol=0.1, atol=0)
        assert ours.abs().max() <= 0.5


@pytest.mark.parametrize("name", ["in_proj", "conv1d", "x_proj", "dt_proj", "out_proj"])
def test_sub_modules_are_called(name):
    """An adapter wraps a sub-module, so nothing may read the weights around it."""
    model, calls = block(), []
    getattr(model, name).register_forward_hook(lambda *_: calls.append(name))
    model(inputs())
    assert calls == [name]


def test_scan_and_convolution_get_channel_contiguous_memory(monkeypatch):
    """The layout that the kernels are fastest with; a copy into another one costs more than the scan."""
    import ssmlab.nn.conv
    import ssmlab.nn.mamba

    strides = {}

    def spy(module, name):
        op = getattr(module, name)

        def watched(*arguments, **named):
            tensors = (*arguments, named.get("z"))
            strides[name] = [t.stride(1) for t in tensors if isinstance(t, torch.Tensor) and t.dim() == 3]
            return op(*arguments, **named)

        monkeypatch.setattr(module, name, watched)

    spy(ssmlab.nn.conv, "causal_conv1d")
    spy(ssmlab.nn.mamba, "selective_scan")
    block()(inputs())
    assert strides["causal_conv1d"] == [1]
    assert strides["selective_scan"][1:] == [1] * 4  # dt, B, C, z; x comes from the convolution


def test_dropout_acts_on_the_output_while_training():
    model, u = block(dropout=0.5), inputs()
    y = model(u)[0]
    assert 0.3 < (y == 0).double().mean() < 0.7
    assert not (model.eval()(u)[0] == 0).any()


def test_half_precision_weights_keep_a_float32_scan():
    model = Mamba(WIDTH, d_state=3)
    u = inputs().float()
    expected = model(u)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y, state = model(u)
    assert y.dtype == torch.bfloat16
    assert state.ssm.dtype == torch.float32
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.02)
    y, state = model.bfloat16()(u.bfloat16(), mask=torch.ones(2, LENGTH).bool())
    assert y.dtype == torch.bfloat16
    assert state.ssm.dtype == torch.float32
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_state": 0}, "d_state must be at least 1, got 0"),
        ({"d_conv": 0}, "d_conv"),
        ({"expand": 0}, "d_inner"),
        ({"dt_rank": 0}, "dt_rank"),
        ({"dt_rank": "large"}, "'large'"),
        ({"dt_min": 0.2}, "dt_max"),
    ],
)
def test_wrong_sizes_are_refused(options, words):
    with pytest.raises(ModelError, match=words):
        block(**options)


def test_wrong_arguments_are_refused():
    model, u = block(), inputs()
    state = random_state(model)
    for arguments, words in [
        ((u[..., :-1],), "u must have shape"),
        ((u, MambaState(state.conv[:1], state.ssm)), "conv_state must have shape"),
        ((u, MambaState(state.conv, state.ssm.mT)), "ssm_state must have shape"),
    ]:
        with pytest.raises(ShapeError, match=words):
            model(*arguments)
    with pytest.raises(ShapeError, match=r"mask\.bool\(\)"):
        model(u, mask=torch.ones(2, LENGTH))
    with pytest.raises(ShapeError, match="mask must have shape"):
        model(u, mask=torch.ones(LENGTH, 2).bool())
    with pytest.raises(ShapeError, match="seq_idx must have shape"):
        model(u, seq_idx=torch.zeros(2, 3).long())
