"""What instructions of PTX compute of the numbers of 32 lanes; see `ptx.py`."""

import operator
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

LANES, ALL = np.arange(32), np.ones(32, bool)
KINDS = {
    "pred": np.bool_, "b8": np.uint8, "u8": np.uint8, "s8": np.int8, "b16": np.uint16, "u16": np.uint16,
    "s16": np.int16, "f16": np.float16, "bf16": np.uint16, "b32": np.uint32, "u32": np.uint32, "s32": np.int32,
    "f32": np.float32, "b64": np.uint64, "u64": np.uint64, "s64": np.int64,
}  # fmt: skip
WIDE = {np.int16: np.int32, np.uint16: np.uint32, np.int32: np.int64, np.uint32: np.uint64}


class Instruction(NamedTuple):
    """`@guard name.of.parts operands`, and the kind of number that the last part says."""

    text: str
    guard: str | None
    unless: bool
    parts: tuple[str, ...]
    operands: tuple[str, ...]
    kind: type | None


# Of numbers of the instruction's kind.
ARITHMETIC: dict[str, Callable] = {
    "add": operator.add, "sub": operator.sub, "neg": operator.neg, "abs": np.abs, "min": np.fmin, "max": np.fmax,
    "fma": lambda x, y, z: (x.astype(np.float64) * y + z).astype(np.float32), "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert, "ex2": np.exp2, "lg2": np.log2, "rcp": np.reciprocal,
    "mov": lambda x: x,
}  # fmt: skip
HALVES = {"bf16": torch.bfloat16, "bf16x2": torch.bfloat16, "f16": torch.float16, "f16x2": torch.float16}
ROUNDINGS = {"rmi": np.floor, "rpi": np.ceil, "rni": np.rint, "rzi": np.trunc}
RELATIONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "nu": lambda x, y: ALL, "na": lambda x, y: ~ALL,
}  # fmt: skip
SHUFFLES = {"up": LANES.__sub__, "down": LANES.__add__, "bfly": LANES.__xor__, "idx": lambda by: by}


def arithmetic(i: Instruction, *values: np.ndarray) -> np.ndarray:
    """With `ftz`, what is too small for a normal float32 is zero."""
    least = np.finfo(np.float32).tiny if "ftz" in i.parts else 0
    value = ARITHMETIC[i.parts[0]](*(np.where(np.abs(x) < least, 0 * x, x) for x in values) if least else values)
    return np.where(np.abs(value) < least, 0 * value, value) if least else value


def multiplied(i: Instruction, x: np.ndarray, y: np.ndarray, z=0) -> np.ndarray:
    """Of floats, or the low half or all of a product of integers, with what is added to it."""
    result = WIDE[i.kind] if "wide" in i.parts else i.kind
    return x.astype(result) * y.astype(result) + z


def divided(i: Instruction, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Integers rounded towards zero."""
    if i.kind is np.float32:
        return x / y
    y = np.where(y == 0, 1, y).astype(y.dtype)
    rest = np.fmod(x, y)
    return rest if i.parts[0] == "rem" else (x - rest) // y


def compared(i: Instruction, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where a number is NaN, `ltu` is true and `lt` is not."""
    relation = i.parts[1]
    return np.where((x != x) | (y != y), relation.endswith(("u", "nan")), RELATIONS[relation[:2]](x, y))


def shuffled(i: Instruction, x: np.ndarray, by: np.ndarray, limit: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Every lane takes another one's number; beyond the end its own."""
    if (limit != (0 if "up" in i.parts else 31)).any() or (members != -1).any():
        raise NotImplementedError(i.text)
    other = SHUFFLES[i.parts[2]](by & 31)
    return x[np.where((other >= 0) & (other < 32), other, LANES)]


def in_bits(x: np.ndarray, half: torch.dtype) -> np.ndarray:
    return torch.from_numpy(x.copy()).to(half).view(torch.int16).numpy().view(np.uint16)


def converted(i: Instruction, x: np.ndarray, low: np.ndarray | None = None) -> np.ndarray:
    """One number, or two into the halves of a register."""
    (target, source), half = i.parts[-2:], HALVES.get(i.parts[-2])
    if low is not None:
        return in_bits(x, half).astype(np.uint32) << 16 | in_bits(low, half)
    x = (x.astype(np.uint32) << 16).view(np.float32) if source == "bf16" else x
    for name in ROUNDINGS.keys() & i.parts:
        x = ROUNDINGS[name](x)
    if half is not None:
        return in_bits(x, half)
    kind = KINDS[target]
    if x.dtype.kind == "f" and np.dtype(kind).kind != "f":
        x = np.clip(np.nan_to_num(x.astype(np.float64)), np.iinfo(kind).min, np.iinfo(kind).max)
    return x.astype(kind)


def permuted(i: Instruction, low: np.ndarray, high: np.ndarray, selector: np.ndarray) -> np.ndarray:
    """Each byte is the one of eight that four bits name, or its sign eight times."""
    which = (selector[:, None] >> np.arange(0, 16, 4, dtype=np.uint32)) & 15
    found = np.stack([low, high], 1).view(np.uint8)[LANES[:, None], which & 7]
    return np.where(which & 8, np.where(found & 128, 255, 0), found).astype(np.uint8).view(np.uint32)[:, 0]


# What is computed, the kinds of the operands if not all the instruction's own, and what may stand between its parts.
COMPUTED: dict[str, tuple[Callable, tuple, set[str]]] = {
    **dict.fromkeys(ARITHMETIC, (arithmetic, (), {"rn", "approx", "ftz"})),
    **dict.fromkeys(("mul", "mad"), (multiplied, (), {"rn", "lo", "wide"})),
    "shl": (lambda i, x, by: x << np.minimum(by, 64).astype(x.dtype), (None, np.uint32), set()),
    "shr": (lambda i, x, by: x >> np.minimum(by, 64).astype(x.dtype), (None, np.uint32), set()),
    **dict.fromkeys(("div", "rem"), (divided, (), {"full", "approx"})),
    "setp": (compared, (), {"num", "nan", "ftz", *RELATIONS, *(f"{name}u" for name in RELATIONS)}),
    "selp": (lambda i, x, y, which: np.where(which, x, y), (None, None, np.bool_), set()),
    "shfl": (shuffled, (None, np.int32, np.int32, np.int32), {"sync", *SHUFFLES}),
    "cvt": (converted, (), {"rn", "ftz", *ROUNDINGS, *KINDS, *HALVES}),
    "prmt": (permuted, (), set()),
    "bfe": (lambda i, x, first, n: x << (8 * x.itemsize - first - n) >> (8 * x.itemsize - n), (), set()),
}
