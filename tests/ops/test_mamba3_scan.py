"""Mamba-3's scan: every backend against the definition in float64, outputs and all gradients, and its laws."""

from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ops.common import TOLERANCE, relative_error
from ssmlab.core.errors import BackendError, ShapeError
from ssmlab.ops import Mamba3State, _native, mamba3, ssd

BUILT = pytest.mark.skipif(bool(_native.MISSING), reason="the native library was not built")
FAST = ["chunked", pytest.param("native", marks=BUILT)]
STATE = ("angle_state", "ssm_state", "k_state", "v_state")
PER_TOKEN = ("x", "dt", "log_decay", "trap", "B", "C", "angle", "z")
SISO = {"r": 1}
MIMO = {"r": 3, "pairs": "halves"}
KINDS = [SISO, MIMO]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=["siso", "mimo"])


def make(b=2, l=21, h=4, p=3, g=2, n=6, s=2, r=1, pairs="interleaved", dtype=torch.float64):
    """Random arguments, the state's parts by name."""

    def rand(*size):
        return torch.randn(*size, dtype=torch.float64)

    made = {
        "x": rand(b, l, h, p),
        "dt": rand(b, l, h).sigmoid(),
        "log_decay": -0.02 - rand(b, l, h).sigmoid(),
        "trap": rand(b, l, h),
        "B": rand(b, l, r, g, n),
        "C": rand(b, l, r, g, n),
        "angle": rand(b, l, h, s),
        "D": rand(h),
        "z": rand(b, l, h, p),
        "B_bias": rand(h, r, n),
        "C_bias": rand(h, r, n),
        "angle_state": rand(b, h, s),
        "ssm_state": rand(b, h, p, n),
        "k_state": rand(b, h, r, n),
        "v_state": rand(b, h, r, p),
    }
    if r > 1:
        made |= {f"mimo_{name}": rand(h, r, p) for name in "xzo"}
    return {name: t.to(dtype) for name, t in made.items()} | {"pairs": pairs}


def call(arguments, **options):
    """The operator, and its results by name."""
    given = dict(arguments)
    state = [given.pop(name, None) for name in STATE]
    y, last = mamba3(**given, initial_state=None if state[0] is None else Mamba3State(*state), **options)
    return {"y": y, **dict(zip(STATE, last))}


def without(arguments, *names):
    return {name: value for name, value in arguments.items() if name not in names}


def run(arguments, dtype, backend, **options):
    """Outputs and the gradients of every tensor, against fixed random output gradients, in float64."""
    leaves = {k: v.to(dtype).requires_grad_() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    outputs = call(leaves, backend=backend, **options)
    generator, loss = torch.Generator().manual_seed(1), torch.zeros((), dtype=torch.float64)
    for output in outputs.values():
        loss = loss + (output.double() * torch.randn(output.shape, generator=generator, dtype=torch.float64)).sum()
    tensors = {k: v for k, v in leaves.items() if isinstance(v, torch.Tensor)}
    gradients = torch.autograd.grad(loss, list(tensors.values()))
    found = {k: v.detach().double() for k, v in outputs.items()}
    return found, {k: v.double() for k, v in zip(tensors, gradients, strict=True)}


def assert_equal_runs(found, exact, dtype):
    for got, wanted, tolerance in zip(found, exact, TOLERANCE[dtype]):
        errors = {name: relative_error(got[name], wanted[name]) for name in wanted}
        assert all(error <= tolerance for error in errors.values()), errors


def rounded(arguments, dtype):
    return {k: v.to(dtype).double() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}


@each_kind
@pytest.mark.parametrize("length", [1, 2, 21, 70])
@pytest.mark.parametrize("backend", FAST)
def test_equals_the_definition(backend, length, kind):
    arguments = rounded(make(l=length, **kind), torch.float32)
    exact = run(arguments, torch.float64, "reference")
    assert_equal_runs(run(arguments, torch.float32, backend, chunk_size=16), exact, torch.float32)
    if backend == "chunked":
        assert_equal_runs(run(arguments, torch.float64, backend, chunk_size=16), exact, torch.float64)


@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_have_a_float32_state(dtype, kind):
    arguments = rounded(make(**kind), dtype)
    narrow = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    exact, found = call(arguments, backend="reference"), call(narrow)
    assert found["y"].dtype == dtype and {found[name].dtype for name in STATE} == {torch.float32}
    for name, value in found.items():
        assert relative_error(value, exact[name]) <= (TOLERANCE[dtype][0] if name == "y" else 1e-5), name


@each_kind
@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("absent", [(), ("D", "z", "mimo_z"), ("B_bias",), ("C_bias", *STATE)], ids=str)
def test_optional_arguments_are_their_neutral_values(absent, backend, kind):
    arguments = make(**kind)
    neutral = {name: torch.zeros_like(arguments[name]) for name in absent if name in arguments}
    if "z" in neutral:  # no gate is not the gate of a zero: silu(z) is 1 nearly at 1.2785
        neutral["z"] += 1.2784645427610738
        if kind is MIMO:
            neutral["mimo_z"] += 1
    full, less = call(arguments | neutral, backend=backend), call(without(arguments, *absent), backend=backend)
    for name in full:
        torch.testing.assert_close(less[name], full[name], rtol=1e-9, atol=1e-10)


@each_kind
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_one_by_one_and_halves_equal_whole(backend, kind):
    arguments = make(l=9, **kind)
    whole = call(arguments, backend=backend)
    for cuts in (range(10), (0, 4, 9), (0, 0, 1, 9)):
        state, outputs = {name: arguments[name] for name in STATE}, []
        for begin, end in pairwise(cuts):
            part = {k: arguments[k][:, begin:end] for k in PER_TOKEN}
            found = call(arguments | part | state, backend=backend, chunk_size=4)
            state = {name: found[name] for name in STATE}
            outputs.append(found["y"])
        torch.testing.assert_close(torch.cat(outputs, 1), whole["y"])
        for name in STATE:
            torch.testing.assert_close(state[name], whole[name])


@each_kind
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_packed_equals_each_alone(backend, kind):
    """The state belongs to the first sequence, and the last one's state comes out."""
    arguments, bounds = make(b=1, l=12, **kind), (0, 5, 6, 12)
    index = torch.tensor([[3] * 5 + [1] + [3] * 6])
    found = call(arguments, seq_idx=index, backend=backend, chunk_size=4)
    outputs = []
    for begin, end in pairwise(bounds):
        part = arguments | {k: arguments[k][:, begin:end] for k in PER_TOKEN}
        alone = call(part if begin == 0 else without(part, *STATE), backend=backend)
        outputs.append(alone["y"])
    torch.testing.assert_close(found["y"], torch.cat(outputs, 1))
    for name in STATE:
        torch.testing.assert_close(found[name], alone[name])


@each_kind
@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("packed", [False, True])
def test_padding_behind_the_lengths_changes_nothing(packed, backend, kind):
    arguments, lengths = make(b=3, l=7, **kind), torch.tensor([7, 4, 0])
    options = {"seq_idx": torch.tensor([[0, 0, 1, 1, 1, 1, 1]] * 3)} if packed else {}
    found = call(arguments, lengths=lengths, backend=backend, **options)
    for row, length in enumerate(lengths.tolist()):
        own = {k: v[row : row + 1] for k, v in arguments.items() if k in (*PER_TOKEN, *STATE)}
        own |= {k: own[k][:, :length] for k in PER_TOKEN}
        index = {"seq_idx": options["seq_idx"][:1, :length]} if packed else {}
        alone = call(arguments | own, backend=backend, **index)
        torch.testing.assert_close(found["y"][row, :length], alone["y"][0])
        if not (packed and length == 0):
            for name in STATE:
                torch.testing.assert_close(found[name][row], alone[name][0])


def test_the_state_turns_back_after_a_whole_turn():
    """Interleaved pairs and halves are the same with the states in another order."""
    arguments = make(s=3)
    order = torch.tensor([0, 2, 4, 1, 3, 5])
    swapped = {k: arguments[k][..., order] for k in ("B", "C", "B_bias", "C_bias", "ssm_state", "k_state")}
    found, other = call(arguments), call(arguments | swapped | {"pairs": "halves"})
    torch.testing.assert_close(other["y"], found["y"])
    turned = arguments | {"angle_state": arguments["angle_state"] + 2 * torch.pi}
    torch.testing.assert_close(call(turned)["y"], found["y"])
    torch.testing.assert_close(call(turned)["angle_state"], found["angle_state"])


def test_a_trapezoid_of_weight_one_is_the_state_space_dual():
    a = make(g=4)
    a |= {"trap": torch.full_like(a["trap"], 60.0), "angle": torch.zeros_like(a["angle"])}
    a |= {"log_decay": -0.7 * a["dt"]}
    found = call(without(a, "B_bias", "C_bias", *STATE))
    y, state = ssd(
        a["x"], a["dt"], torch.full((4,), -0.7).double(), a["B"].squeeze(2), a["C"].squeeze(2), a["D"], z=a["z"]
    )
    torch.testing.assert_close(found["y"], y, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found["ssm_state"], state, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_no_angles_are_angles_of_zero(backend):
    zero = make(dtype=torch.float32)
    zero |= {name: torch.zeros_like(zero[name]) for name in ("angle", "angle_state")}
    none = zero | {name: zero[name][..., :0] for name in ("angle", "angle_state")}
    expected, found = call(zero, backend=backend), call(none, backend=backend)
    for name in found.keys() - {"angle_state"}:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("backend", FAST)
def test_long_angles_keep_their_digits(backend):
    """The sum of 4,000 steps in float32 would have lost 1e-3 of a turn."""
    arguments = rounded(make(b=1, l=4000, h=1, p=2, g=1, n=4, s=2), torch.float32)
    arguments["angle"] = arguments["angle"].abs() + 1
    arguments = rounded(arguments, torch.float32)
    exact = call(arguments, backend="chunked")
    narrow = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    found = call(narrow, backend=backend)
    assert relative_error(found["y"], exact["y"]) < 1e-5
    distance = (found["angle_state"].double() - exact["angle_state"] + torch.pi) % (2 * torch.pi) - torch.pi
    assert distance.abs().max() < 1e-3


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("rate", [1e-4, 1e-2, 30.0])
def test_gradients_at_weak_and_strong_decays(rate, backend):
    """`log_decay` is divided out of the input, so the gradient of a weak one is what loses digits: eps / rate."""
    arguments = make(b=1, l=64)
    arguments = rounded(arguments | {"log_decay": -rate * arguments["dt"]}, torch.float32)
    exact, found = run(arguments, torch.float64, "reference"), run(arguments, torch.float32, backend)
    errors = {k: relative_error(found[1][k], exact[1][k]) for k in exact[1]}
    weak = errors.pop("log_decay")
    assert max(errors.values()) <= 1e-5 and weak <= max(1e-5, 1e-7 / rate), (errors, weak)


def test_compiles_without_graph_breaks():
    arguments = make(l=20, **MIMO, dtype=torch.float32)
    tensors = {k: v.requires_grad_() for k, v in arguments.items() if isinstance(v, torch.Tensor)}

    def loss(*values):
        return sum(v.square().sum() for v in call(arguments | dict(zip(tensors, values))).values())

    exact = torch.autograd.grad(loss(*tensors.values()), list(tensors.values()))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*tensors.values()), list(tensors.values()))
    for name, value, gradient in zip(tensors, found, exact):
        torch.testing.assert_close(value, gradient, rtol=1e-4, atol=1e-4, msg=name)


@each_kind
def test_the_products_of_the_scan_are_counted(kind):
    b, l, h, p, n, r, q = 2, 20, 4, 3, 6, kind["r"], 16
    sizes = [q] * (l * r // q) + ([l * r % q] if l * r % q else [])
    macs = b * h * sum(k * k * (n + p) + 2 * k * n * p for k in sizes)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(without(make(l=l, **kind, dtype=torch.float32), *STATE), chunk_size=q)
    assert 2 * macs <= counter.get_total_flops() <= 2 * macs + 2 * b * l * h * r * r * (n + p) * (r > 1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"B": torch.zeros(2, 9, 1, 1, 4)}, r"C must have shape \(b=2, l=9, r=1, g=1, n=4\)"),
        ({"angle": torch.zeros(2, 9, 3)}, "s=3 angles turn pairs .* of n=5 states; n is too small"),
        ({"pairs": "neighbours"}, "pairs must be 'interleaved' or 'halves', got 'neighbours'"),
        ({"pairs": "halves"}, "n is too small"),
        ({"chunk_size": 0}, "chunk_size must be 1 or more, got 0"),
        ({"B": torch.zeros(2, 9, 2, 1, 5), "C": torch.zeros(2, 9, 2, 1, 5)}, "r=2 inputs or outputs need mimo_x"),
        ({"mimo_o": torch.zeros(3, 1, 2)}, "need mimo_x"),
        ({"mimo_x": torch.zeros(3, 1, 2), "z": torch.zeros(2, 9, 3, 2)}, "z and mimo_z go together"),
        ({"x": torch.zeros(2, 9, 3, 2, dtype=torch.complex64)}, "must be real"),
        ({"B": torch.zeros(2, 9, 1, 2, 5), "C": torch.zeros(2, 9, 1, 2, 5)}, "g=2 groups, which do not divide h=3"),
    ],
)
def test_wrong_arguments_say_what_to_do(change, text):
    arguments = {"x": torch.zeros(2, 9, 3, 2), **{name: torch.zeros(2, 9, 3) for name in ("dt", "log_decay", "trap")}}
    arguments |= {"B": torch.zeros(2, 9, 1, 1, 5), "C": torch.zeros(2, 9, 1, 1, 5), "angle": torch.zeros(2, 9, 2)}
    with pytest.raises(ShapeError, match=text):
        mamba3(**arguments | change)


def test_unknown_backend_is_refused():
    with pytest.raises(BackendError, match="unknown backend 'tilelang'"):
        call(make(), backend="tilelang")
