"""Random calls of every operator, right, extreme and wrong ones: what a trial found that should not be.

`python tests/ops/fuzz.py COUNT SEED` prints the figures.
"""

import random
import sys
from collections import Counter

import numpy as np
import torch

from ssmlab import ops
from ssmlab.core.errors import UserError

SIZES = [0, 1, 1, 2, 2, 3, 4, 5, 7, 8, 16, 17, 33]
LENGTHS = [0, 1, 1, 2, 3, 5, 16, 63, 64, 65, 130]
DTYPES = [torch.float32] * 4 + [torch.bfloat16, torch.float16, torch.float64]
TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 2e-4,
    torch.bfloat16: 6e-2,
    torch.float16: 2e-2,
}  # of the largest value
INTEGERS = ("seq_idx", "lengths")


class Maker:
    """Arguments of one call, in float64; `sizes` by letter, the same letter the same size."""

    def __init__(self, seed: int, extreme: bool):
        self.random, self.extreme = random.Random(seed), extreme
        self.generator = torch.Generator().manual_seed(seed)
        self.sizes: dict[str, int] = {}

    def size(self, letter: str) -> int:
        if letter not in self.sizes:
            self.sizes[letter] = self.random.choice(LENGTHS if letter == "l" else SIZES)
        return self.sizes[letter]

    def __call__(self, axes: str, positive: bool = False, scale: float = 1.0) -> torch.Tensor:
        shape = [self.size(a) for a in axes.split()]
        t = torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale
        if self.extreme:
            t = t * 10.0 ** self.random.choice([-6, -2, 0, 0, 1])
        return t.abs() + (0 if self.extreme else 1e-3) if positive else t

    def maybe(self, axes: str, **how) -> torch.Tensor | None:
        return self(axes, **how) if self.random.random() < 0.5 else None

    def breaks(self) -> torch.Tensor | None:
        if self.random.random() < 0.5:
            return None
        shape = (self.size("b"), self.size("l"))
        return torch.randint(0, 3, shape, generator=self.generator).sort(-1).values

    def groups(self, heads: str, letter: str = "g") -> None:
        fits = [g for g in (1, 2, 3, 4) if self.size(heads) % g == 0]
        self.sizes[letter] = self.random.choice(fits)


def selective_scan(m: Maker):
    m.groups("d")
    map_ = m.random.choice(["b n l", "b g n l", "d n"])
    a = {"x": m("b d l"), "dt": m("b d l", positive=True, scale=0.3), "A": -m("d n", positive=True), "B": m(map_)}
    a |= {"C": m(map_), "D": m.maybe("d"), "z": m.maybe("b d l"), "dt_bias": m.maybe("d")}
    options = {"dt_softplus": m.random.random() < 0.5}
    if a["dt_bias"] is not None:
        options["dt_softplus"] = True
    return a | {"initial_state": m.maybe("b d n"), "seq_idx": m.breaks()}, options


def complex_scan(m: Maker):
    a, options = selective_scan(m)
    a["A"] = torch.complex(a["A"], m("d n"))
    for name in "BC":
        a[name] = torch.complex(a[name], m("d n")) if a[name].dim() == 2 else torch.cat([a[name]] * 2, -1)
    if a["initial_state"] is not None:
        a["initial_state"] = torch.complex(a["initial_state"], m("b d n"))
    return a, options


def ssd(m: Maker):
    m.groups("h")
    a = {"x": m("b l h p"), "dt": m("b l h", positive=True, scale=0.3), "A": -m("h", positive=True)}
    a |= {"B": m("b l g n"), "C": m("b l g n"), "D": m.maybe(m.random.choice(["h", "h p"])), "z": m.maybe("b l h p")}
    a |= {"initial_state": m.maybe("b h p n"), "seq_idx": m.breaks()}
    return a, {"chunk_size": m.random.choice([1, 7, 64, 100])}


def causal_conv1d(m: Maker):
    m.sizes["w"] = m.random.choice([1, 2, 3, 4, 5])
    m.sizes["v"] = m.sizes["w"] - 1
    a = {"x": m("b d l"), "weight": m("d w"), "bias": m.maybe("d"), "initial_state": m.maybe("b d v")}
    return a | {"seq_idx": m.breaks()}, {"activation": m.random.choice([None, "silu"])}


def directional_scan(m: Maker):
    m.sizes["k"] = m.random.choice([1, 2, 4])
    m.sizes |= {"y": m.random.choice([1, 2, 3, 8]), "x": m.random.choice([1, 2, 5, 9])}
    a = {"x": m("b d y x"), "dt": m("b k d y x", positive=True, scale=0.3), "A": -m("k d n", positive=True)}
    a |= {"B": m("b k n y x"), "C": m("b k n y x"), "D": m.maybe("k d")}
    return a, {"directions": m.sizes["k"]}


def mamba3(m: Maker):
    m.groups("h")
    mimo = m.random.random() < 0.3
    m.sizes |= {"r": m.random.choice([1, 2, 3]) if mimo else 1, "s": m.random.randint(0, m.size("n") // 2)}
    a = {"x": m("b l h p"), "dt": m("b l h", positive=True, scale=0.3), "log_decay": -m("b l h", positive=True)}
    a |= {"trap": m("b l h"), "B": m("b l r g n"), "C": m("b l r g n"), "D": m.maybe("h"), "z": m.maybe("b l h p")}
    a |= {"angle": m(m.random.choice(["b l h s", "b l s"])), "seq_idx": m.breaks()}
    if m.random.random() < 0.3:
        a["lengths"] = torch.randint(0, m.size("l") + 1, (m.size("b"),), generator=m.generator)
    if mimo:
        a |= {"mimo_x": m("h r p"), "mimo_o": m("h r p"), "mimo_z": None if a["z"] is None else m("h r p")}
    return a | {"B_bias": m.maybe("h r n"), "C_bias": m.maybe("h r n")}, {}


def lti(m: Maker):
    a = {"u": m("b d l"), "dt": m("d", positive=True, scale=0.1), "A": -m("d n", positive=True), "B": m("d n")}
    a |= {"C": m("d n"), "D": m.maybe("d"), "initial_state": m.maybe("b d n")}
    view = m.random.choice(["auto", "convolution", "recurrence"])
    return a, {"view": view, "discretization": m.random.choice(["zoh", "bilinear"])}


def cross_scan(m: Maker):
    m.sizes |= {"y": m.random.choice([1, 2, 3]), "x": m.random.choice([1, 2, 5])}
    return {"x": m("b d y x")}, {"directions": m.random.choice([1, 2, 4])}


def lti_kernel(m: Maker):
    a, _ = lti(m)
    return {k: a[k] for k in ("dt", "A", "B", "C")}, {"length": m.size("l")}


def cross_merge(m: Maker):
    m.sizes |= {"k": m.random.choice([1, 2, 4]), "l": 6}
    return {"y": m("b k d l")}, {"h": 2, "w": 3}


OPERATORS = {"selective_scan": selective_scan, "complex_scan": complex_scan, "lti_kernel": lti_kernel,
             "cross_merge": cross_merge, "ssd": ssd, "causal_conv1d": causal_conv1d, "mamba3": mamba3,
             "directional_scan": directional_scan, "lti": lti, "cross_scan": cross_scan}  # fmt: skip
BACKENDS = {"selective_scan": ("native", "chunked"), "ssd": ("native", "chunked"), "causal_conv1d": ("native",),
            "directional_scan": ("native", "chunked"), "mamba3": ("native", "chunked")}  # fmt: skip
BACKENDS["complex_scan"] = BACKENDS["selective_scan"]
OPTIONAL = ("D", "z", "dt_bias", "bias", "initial_state", "seq_idx", "lengths", "B_bias", "C_bias", "mimo_z")


def rounded(t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return t.to(dtype.to_complex() if t.is_complex() else dtype)


def laid_out(t: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """The same values in other memory: turned, with gaps, or from an odd offset on."""
    how = rng.randrange(4)
    if how == 1 and t.dim() > 1:
        return t.mT.contiguous().mT
    if how == 2:
        wide = t.new_zeros([2 * n for n in t.shape])[tuple(slice(0, None, 2) for _ in t.shape)]
        return wide.copy_(t)
    if how == 3:
        return t.new_zeros(t.numel() + 1)[1:].view(t.shape).copy_(t)
    return t


def spoiled(name: str, value: torch.Tensor, rng: random.Random):
    """Something in an argument's place that is wrong, and what."""
    whole = name in INTEGERS
    ways = ["list", "numpy", "text", "number", "axis more", "complex", "meta", "sparse"]
    ways += ["float"] if whole else ["integer", "bool", "quantised", "float8"]
    ways += [] if name in OPTIONAL else ["None"]
    ways += ["size"] if value.dim() else []
    if name.endswith("any dtype"):  # takes any dtype and any sizes
        ways = ["list", "numpy", "text", "number", "axis more", "sparse", "quantised", "None"]
    way = rng.choice(ways)
    if way == "size":
        axis = rng.randrange(value.dim())
        return torch.cat([value, value[(slice(None),) * axis + (slice(0, 1),)]], axis), way
    made = {
        "list": lambda: value.tolist(), "numpy": lambda: value.double().numpy(), "text": lambda: "x",
        "number": lambda: 0.5, "axis more": lambda: value[None], "complex": lambda: value.to(torch.complex64),
        "meta": lambda: value.to("meta"), "sparse": lambda: value.to_sparse(), "float": value.double,
        "integer": value.long, "bool": value.bool, "None": lambda: None,
        "quantised": lambda: torch.quantize_per_tensor(value.detach().float(), 0.1, 0, torch.qint8),
        "float8": lambda: value.to(torch.float8_e4m3fn),
    }  # fmt: skip
    return made[way](), way


WRONG_OPTIONS = {
    "backend": ["foo", 5, "", []], "dt_softplus": ["yes", None, 2], "chunk_size": [0, -3, 2.5, None, "64", True],
    "directions": [3, 0, -1, 2.0, "4", None, True], "activation": ["relu", 1, []], "pairs": ["x", None, 3],
    "length": [-1, 2.5, None, "3"], "h": [-2, 4, 2.0, None, "2"], "w": [-3, 5, 3.0, None, True],
    "view": ["x", None], "discretization": ["euler", None, 1],
}  # fmt: skip
OF_OPERATOR = {
    "selective_scan": ["backend", "dt_softplus"], "ssd": ["backend", "dt_softplus", "chunk_size"],
    "causal_conv1d": ["backend", "activation"], "directional_scan": ["backend", "dt_softplus", "directions"],
    "complex_scan": ["backend", "dt_softplus"], "lti_kernel": ["length", "discretization"], "cross_merge": ["h", "w"],
    "mamba3": ["backend", "chunk_size", "pairs"], "lti": ["view", "discretization"], "cross_scan": ["directions"],
}  # fmt: skip


def parts(out) -> list[torch.Tensor]:
    flat = out if isinstance(out, tuple) else (out,)
    return [p for o in flat for p in (o if isinstance(o, tuple) else (o,))]


def run(op, arguments, options, gradients: bool):
    """Outputs, and with `gradients` those of every floating-point argument, against fixed ones of the outputs."""
    leaves = {k: t for k, t in arguments.items() if isinstance(t, torch.Tensor) and k not in INTEGERS}
    if gradients:
        arguments = arguments | {k: t.detach().requires_grad_() for k, t in leaves.items()}
    found = parts(op(**arguments, **options))
    if op is ops.mamba3:  # an angle is a point on a circle, and the outputs at padding mean nothing
        found[1:2] = [found[1].cos(), found[1].sin()]
        lengths = arguments.get("lengths")
        if lengths is not None:
            padding = torch.arange(found[0].shape[1]) >= lengths[:, None]
            found[0] = found[0].masked_fill(padding[..., None, None], 0.0)
    if not gradients:
        return {f"out{i}": real(t) for i, t in enumerate(found)}
    generator, loss = torch.Generator().manual_seed(1), torch.zeros((), dtype=torch.float64)
    for out in found:
        out = torch.view_as_real(out.resolve_conj()) if out.is_complex() else out
        loss = loss + (out.double() * torch.randn(out.shape, generator=generator, dtype=torch.float64)).sum()
    values = [None] * len(leaves)  # where nothing depends on anything, as without a token
    if loss.requires_grad:
        values = torch.autograd.grad(loss, [arguments[k] for k in leaves], allow_unused=True)
    zeros = [torch.zeros_like(t) if g is None else g for g, t in zip(values, leaves.values(), strict=True)]
    named = {f"d{k}": real(g) for k, g in zip(leaves, zeros, strict=True)}
    return {f"out{i}": real(t) for i, t in enumerate(found)} | named


def real(t: torch.Tensor) -> torch.Tensor:
    """In float64, a complex one as pairs."""
    t = t.detach()
    return torch.view_as_real(t.resolve_conj()).double() if t.is_complex() else t.double()


def difference(found: dict, exact: dict, dtype: torch.dtype, extreme: bool) -> str:
    """Where two runs differ, in words; "" where they do not."""
    for key, wanted in exact.items():
        got = found[key]
        if got.shape != wanted.shape:
            return f"{key} has shape {tuple(got.shape)}, not {tuple(wanted.shape)}"
        if not wanted.numel():
            continue
        fits = wanted.abs() < torch.finfo(dtype).max / 4
        if extreme and not fits.all():
            continue
        if not got.isfinite().all():
            return f"{key} is not finite"
        scale = max(float(wanted.abs().max()), 1e-3 if dtype is torch.float64 else 1e-2)
        if dtype.itemsize == 2 and key.startswith(
            "d"
        ):  # rounded terms add up as the root of their number, whatever is left
            scale = max(scale, (exact["out0"].numel() / wanted.numel()) ** 0.5)
        bound = TOLERANCE[dtype] * (20 if extreme else 4 if key.startswith("d") else 1)
        error = float((got - wanted).abs().max()) / scale
        if not error <= bound:
            return f"{key} is off by {error:.1e}"
    return ""


def trial(seed: int) -> tuple[str, str, str]:
    """(kind of call, what became of it, details); what became of it is "right", "refused" or a fault."""
    rng = random.Random(seed)
    kind = rng.choice(["valid", "valid", "extreme", "wrong"])
    name = rng.choice(list(OPERATORS))
    shown = "selective_scan" if name == "complex_scan" else name
    op, maker = getattr(ops, shown), Maker(seed, kind == "extreme")
    wide, options = OPERATORS[name](maker)
    dtype = torch.float32 if name == "lti" and kind == "extreme" else rng.choice(DTYPES)
    if name == "complex_scan" and dtype.itemsize == 2:
        dtype = torch.float32
    wide = {k: rounded(t, dtype).to(t.dtype) if k not in INTEGERS and t is not None else t for k, t in wide.items()}
    arguments = {
        k: laid_out(rounded(t, dtype), rng) if k not in INTEGERS and t is not None else t for k, t in wide.items()
    }
    how = dict(options)
    if name in BACKENDS and rng.random() < 0.5:
        backend = rng.choice(BACKENDS[name])
        how["backend"] = backend if dtype is not torch.float64 else "chunked" if "chunked" in BACKENDS[name] else None
    words = f"seed {seed}: {name} {dtype} {how} {maker.sizes}"
    way, gradients = "", rng.random() < 0.5 and kind != "extreme"
    if kind == "wrong":
        target = rng.choice([k for k, t in arguments.items() if t is not None])
        label = f"{target}, any dtype" if name.startswith("cross") else target
        value = arguments[target]
        arguments[target], way = spoiled(label, value, rng)
        words, gradients = f"{words}, {target}: {way}", False
        if rng.random() < 0.25:  # an option instead
            arguments[target] = value
            target = rng.choice(OF_OPERATOR[name])
            how[target] = rng.choice(WRONG_OPTIONS[target])
            way, words = "option", f"{words}; no: {target}={how[target]!r}"
    definition = {"backend": "reference"} if name in BACKENDS else {}
    try:
        found = run(op, arguments, how, gradients)
    except UserError as error:
        text = str(error)
        if kind != "wrong":
            return kind, "a valid call is refused", f"{words}: {text}"
        return kind, "refused" if "\n" not in text and text.startswith(shown) else "unclear", f"{words}: {text}"
    except Exception as error:
        return kind, "another error", f"{words}: {type(error).__name__} {' '.join(str(error).split())[:200]}"
    if kind == "wrong":
        if way in ("size", "axis more", "complex"):  # may make another valid call
            try:
                exact = run(op, arguments, options | definition, False)
                return kind, "right" if not difference(found, exact, dtype, False) else "accepted", words
            except UserError:
                pass
        return kind, "accepted", words
    told = difference(found, run(op, wide, options | definition, gradients), dtype, kind == "extreme")
    return kind, "a wrong result" if told else "right", f"{words}: {told}"


def figures(count: int, first: int = 0) -> tuple[Counter, list[str]]:
    """How often what became of calls of each kind, and the details of every fault."""
    counted, faults = Counter(), []
    for seed in range(first, first + count):
        kind, outcome, details = trial(seed)
        counted[kind, outcome] += 1
        if outcome not in ("right", "refused"):
            faults.append(f"{outcome}: {details}")
    return counted, faults


if __name__ == "__main__":
    np.seterr(all="ignore")
    counted, faults = figures(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    lines = [f"{kind:8} {outcome:24} {number:6}" for (kind, outcome), number in sorted(counted.items())]
    sys.stdout.write("\n".join([*lines, *faults, ""]))
