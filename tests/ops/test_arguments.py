"""What is wrong with an argument is said in one line, and what is odd but right works."""

import pytest
import torch

from ops.test_second_derivatives import CASES
from ssmlab import nn, ops
from ssmlab.core.errors import BackendError, ShapeError
from ssmlab.models import create_model
from ssmlab.ops import _native

WRONG = {
    "list": lambda t: t.tolist(),
    "numpy": lambda t: t.numpy(),
    "text": lambda t: "x",
    "integers": lambda t: t.long(),
    "bools": lambda t: t.bool(),
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "an axis more": lambda t: t[None],
    "nested": lambda t: torch.nested.nested_tensor([t]),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("way", WRONG)
@pytest.mark.parametrize("case", [c for c in CASES if c != "complex"])
def test_every_argument(case, way):
    op, arguments, options = CASES[case]()
    arguments = {k: t.float() for k, t in arguments.items()}
    for name, value in arguments.items():
        with pytest.raises(ShapeError, match=rf"^{op.__name__}: .*") as found:
            op(**arguments | {name: WRONG[way](value)}, **options)
        text = str(found.value)
        assert "\n" not in text and len(text) < 200
        if (way, name) != ("meta", "x"):  # then the others are not where x is
            assert f" {name} " in text.replace(",", " ")


@pytest.mark.parametrize("case", [c for c in CASES if c != "complex"])
def test_what_must_be_there(case):
    op, arguments, options = CASES[case]()
    required = {"x", "dt", "A", "B", "C", "weight", "log_decay", "trap", "angle"} & arguments.keys()
    for name in required:
        with pytest.raises(ShapeError, match=rf"{op.__name__}: {name} must be a tensor .*, got None"):
            op(**arguments | {name: None}, **options)


@pytest.mark.parametrize("case", [c for c in CASES if c != "complex"])
@pytest.mark.parametrize("backend", ["fast", 3, ""])
def test_unknown_backends(case, backend):
    op, arguments, options = CASES[case]()
    with pytest.raises(BackendError, match="unknown backend"):
        op(**arguments, **options, backend=backend)


@pytest.mark.parametrize("case", CASES)
def test_meta_alone_has_shapes(case):
    op, arguments, options = CASES[case]()
    options = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    expected = op(**arguments, **CASES[case]()[2])
    found = op(**{k: t.to("meta") for k, t in arguments.items()}, **options)
    y, wanted = (out[0] if isinstance(out, tuple) else out for out in (found, expected))
    assert y.is_meta and y.shape == wanted.shape


@pytest.mark.skipif(bool(_native.MISSING), reason="needs the native library")
def test_the_dispatcher_refuses_meta_among_others():
    x, dt, A = torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(2, 4)
    B = torch.zeros(1, 4, 3)
    with pytest.raises(ShapeError, match="selective_scan: the tensors are on cpu and meta"):
        torch.ops.ssmlab.selective_scan(x, dt, A.to("meta"), B, B, *[None] * 5, False, False, "native")
    with pytest.raises(ShapeError, match="causal_conv1d: the tensors are on cpu and meta"):
        torch.ops.ssmlab.causal_conv1d(x, A.to("meta"), None, None, None, None, "native")


@torch.no_grad()
def test_a_model_with_weights_that_were_never_loaded():
    good = create_model("mamba_lm_test").state_dict()
    with torch.device("meta"):
        model = create_model("mamba_lm_test").eval()
    model.load_state_dict({k: v for k, v in good.items() if "conv1d.weight" not in k}, strict=False, assign=True)
    with pytest.raises(ShapeError, match="causal_conv1d: weight is on meta, x on cpu"):
        model(torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ops.lti_kernel(torch.ones(2), torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3), 2.5), "whole"),
        (lambda: ops.lti_kernel(torch.ones(2), torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3), -1), "0 or more"),
        (lambda: ops.cross_merge(torch.ones(1, 1, 2, 6), 2.0, 3), "h must be a whole number, got 2.0"),
        (lambda: ops.cross_scan([[1]]), "x must be a tensor"),
        (lambda: ops.lti(torch.ones(1, 2, 4).int(), *[torch.ones(2)], *[torch.ones(2, 3)] * 3), "u must be float32"),
        (lambda: nn.Mamba(8)(torch.ones(1, 2, 8), (1, 2, 3)), r"the state must be a MambaState \(conv, ssm\)"),
        (lambda: nn.Mamba2(8, headdim=4)(torch.ones(1, 2, 8), "x"), "the state must be a Mamba2State"),
        (lambda: nn.Mamba(8)(None), "Mamba: u must be a tensor"),
        (lambda: nn.Mamba(8)(torch.ones(1, 2, 8), seq_idx=torch.zeros(1, 2)), "seq_idx must be integers"),
        (lambda: nn.Mamba(8)(torch.ones(1, 2, 8), mask=torch.zeros(1, 2)), "mask must be bool"),
    ],
)
def test_other_mistakes(call, words):
    with pytest.raises(ShapeError, match=words):
        call()


def mamba3(lengths=None, seq_idx=None, columns=5):
    generator = torch.Generator().manual_seed(0)
    b, h, p, n = 1, 2, 3, 4

    def numbers(*shape):
        return torch.randn(shape, generator=generator)[:, :columns]

    x, dt, decay, trap = numbers(b, 5, h, p), numbers(b, 5, h).abs(), -numbers(b, 5, h).abs(), numbers(b, 5, h)
    maps = numbers(b, 5, 1, 1, n), numbers(b, 5, 1, 1, n), numbers(b, 5, h, 2)
    return x, lambda backend: ops.mamba3(x, dt, decay, trap, *maps, lengths=lengths, seq_idx=seq_idx, backend=backend)


@pytest.mark.parametrize("backend", [None, "reference"])
def test_a_change_of_sequence_in_the_padding_changes_nothing(backend):
    _, padded = mamba3(torch.tensor([3]), torch.tensor([[0, 0, 0, 1, 1]]))
    _, alone = mamba3(columns=3)
    for part, wanted in zip(padded(backend)[1], alone(backend)[1], strict=True):
        torch.testing.assert_close(part, wanted)
    for wrong in (-1, 6):
        with pytest.raises(ShapeError, match=rf"lengths must be from 0 to l=5, got {wrong}"):
            mamba3(torch.tensor([wrong]))[1](backend)


@pytest.mark.parametrize("backend", [None, "reference"])
@torch.no_grad()
def test_the_last_state_is_no_view(backend):
    x, run = mamba3()
    _, state = run(backend)
    kept = [part.clone() for part in state]
    x.zero_()
    assert all(torch.equal(part, wanted) for part, wanted in zip(state, kept, strict=True))
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in state if part is not state.ssm)


@pytest.mark.parametrize("empty", ["b", "d", "n", "l"])
def test_axes_of_size_zero_have_gradients_of_zero(empty):
    size = {"b": 2, "d": 3, "n": 4, "l": 5} | {empty: 0}

    def ones(axes):
        return torch.ones([size[a] for a in axes.split()], requires_grad=True)

    arguments = ones("b d l"), ones("b d l"), ones("d n"), ones("b n l"), ones("b n l"), ones("d")
    y, state = ops.selective_scan(*arguments)
    if empty in "dn":
        found = torch.autograd.grad(y.sum() + state.sum(), arguments, allow_unused=True)
        assert all(g is None or not g.isnan().any() for g in found)
        if empty == "d":
            assert found[3].abs().max() == 0 == found[4].abs().max()
        else:
            torch.testing.assert_close(y, torch.ones_like(y))  # D x alone


@pytest.mark.parametrize("empty", ["h", "p", "n"])
@pytest.mark.parametrize("l", [1, 3])
def test_heads_of_size_zero(empty, l):
    size = {"b": 2, "h": 2, "p": 3, "n": 4, "g": 1} | {empty: 0}

    def ones(axes):
        return torch.ones([l if a == "l" else size[a] for a in axes.split()], requires_grad=True)

    B, C = ones("b l g n"), ones("b l g n")
    y, state = ops.ssd(ones("b l h p"), ones("b l h"), ones("h"), B, C)
    assert y.shape == (2, l, size["h"], size["p"]) and state.shape == (2, size["h"], size["p"], size["n"])
    found = torch.autograd.grad(y.sum() + state.sum(), (B, C))
    assert all(g.numel() == 0 or g.abs().max() == 0 for g in found)


@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_complex_maps_from_an_odd_offset(backend):
    x, dt, A = torch.randn(1, 2, 3), torch.rand(1, 2, 3), torch.complex(-torch.rand(2, 4), torch.randn(2, 4))
    B = torch.randn(1, 4, 6)
    odd = torch.zeros(25)[1:].view(1, 4, 6).copy_(B)
    expected, _ = ops.selective_scan(x, dt, A, B, B, backend=backend)
    assert torch.equal(ops.selective_scan(x, dt, A, odd, odd, backend=backend)[0], expected)
