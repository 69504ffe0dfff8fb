"""Argument checks that print what was got, what was expected and, where there is one, the cure."""

import operator
from collections.abc import Sequence
from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssmlab.core.errors import ShapeError

_FLOATS = frozenset((torch.float32, torch.bfloat16, torch.float16, torch.float64))
_INTEGERS = frozenset((torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8))
_KINDS = {
    "real": (_FLOATS, "float32, bfloat16, float16 or float64"),
    "complex": (_FLOATS | {torch.complex64, torch.complex128}, "real or complex floating-point"),
    "integer": (_INTEGERS, "integers (int64)"),
    "bool": (frozenset((torch.bool,)), "bool, True for a token"),
    "any": (None, "numbers"),
}


def check_shapes(op: str, known: dict[str, int] | None = None, /, **arguments) -> dict[str, int]:
    """Check tensors against named axes, a kind of dtype and one device, and return the size of every name.

    Whole numbers are refused where a real is expected: a result in their dtype would be rounded without a word.

    Args:
        op: the caller's name, which starts the message.
        known: sizes that are fixed already.
        arguments: `name=(tensor, "b d l")`; a number is a fixed size, alternatives are separated by `|`. The first
            tensor that uses a letter fixes its size. A kind may come first, "integer: b l" (see `_KINDS`), real
            otherwise; "?: b d" and "integer?: b l" may be None.
    Raises:
        ShapeError: an argument is no plain tensor, has another dtype or number of axes, a size that disagrees with an
            earlier one, or is not on the device of the first.
    """
    sizes = dict(known or {})
    device = None
    for name, (tensor, axes) in arguments.items():
        forms, dtypes, optional = _SPECS.get(axes) or _spec(axes)
        if tensor is None and optional:
            continue
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided or tensor.is_nested:
            raise ShapeError(_no_tensor(op, name, tensor, forms))
        if tensor.is_quantized if dtypes is None else tensor.dtype not in dtypes:
            raise ShapeError(
                _no_tensor(op, name, tensor, forms)
                if tensor.is_quantized
                else _wrong_dtype(op, name, tensor.dtype, axes)
            )
        if device is None:
            device = tensor.device
        elif tensor.device != device:
            first = next(key for key, (value, _) in arguments.items() if value is not None)
            raise ShapeError(f"{op}: {name} is on {tensor.device}, {first} on {device}; move one of them with .to()")
        shape = tensor.shape
        for form in forms:
            if len(form) == len(shape) and _fits(shape, form, sizes):
                break
        else:
            raise ShapeError(_message(op, name, tuple(shape), forms, sizes))
    return sizes


def check_flag(op: str, name: str, value: Any) -> None:
    """Refuse what is neither True nor False (1 and 0 are)."""
    if not isinstance(value, bool) and not (type(value) is int and value in (0, 1)):
        raise ShapeError(f"{op}: {name} must be True or False, got {described(value)}")


def check_count(op: str, name: str, value: Any, least: int) -> int:
    """`value` as a whole number that is not below `least`."""
    try:
        if isinstance(value, (bool, Tensor)):
            raise TypeError
        number = value if type(value) is int else operator.index(value)
    except TypeError:
        raise ShapeError(f"{op}: {name} must be a whole number, got {described(value)}") from None
    if number < least:
        raise ShapeError(f"{op}: {name} must be {least} or more, got {number}")
    return number


def check_choice(op: str, name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse what is none of the choices."""
    for choice in choices:
        if value is choice or (type(value) is type(choice) and value == choice):
            return
    raise ShapeError(f"{op}: {name} must be {' or '.join(map(repr, choices))}, got {described(value)}")


def check_state(op: str, state: Any, kind: Any) -> Any:
    """The parts of a state of this named tuple; Nones for None."""
    fields = kind._fields
    if state is None:
        return (None,) * len(fields)
    if not isinstance(state, (tuple, list)) or len(state) != len(fields):
        got = described(state) if not isinstance(state, (tuple, list)) else f"{type(state).__name__} of {len(state)}"
        raise ShapeError(
            f"{op}: the state must be a {kind.__name__} ({', '.join(fields)}), got {got}; pass what a call returned"
        )
    return state


def described(value: Any) -> str:
    """A value for a message: short ones as they are written, others by their type."""
    text = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"


class _Spec(NamedTuple):
    forms: list[tuple[str | int, ...]]
    dtypes: frozenset[torch.dtype] | None
    optional: bool


_SPECS: dict[str, _Spec] = {}  # read once: a check costs a tenth of a short scan's time


def _spec(axes: str) -> _Spec:
    """ "integer?: b l|l 4" as its forms [("b", "l"), ("l", 4)], its dtypes, and whether it may be None."""
    kind, separator, shapes = axes.partition(":")
    kind = kind if separator else ""
    forms = [tuple(int(c) if c.isdigit() else c for c in f.split()) for f in (shapes if separator else axes).split("|")]
    spec = _Spec(forms, _KINDS[kind.rstrip("?") or "real"][0], kind.endswith("?"))
    _SPECS[axes] = spec
    return spec


def _fits(shape: Sequence[int], form: tuple[str | int, ...], sizes: dict[str, int]) -> bool:
    """Whether a shape of as many axes has this form; the sizes that it fixes anew are added to `sizes`."""
    new = []
    for axis, size in zip(form, shape):  # noqa: B905 (checked by the caller; `strict` takes longer than the rest)
        if isinstance(axis, str) and axis not in sizes:
            sizes[axis] = size
            new.append(axis)
        elif (sizes[axis] if isinstance(axis, str) else axis) != size:
            for added in new:
                del sizes[added]
            return False
    return True


def _no_tensor(op: str, name: str, got: Any, forms: list[tuple[str | int, ...]]) -> str:
    expected = f"{op}: {name} must be a tensor ({', '.join(map(str, forms[0]))})"
    if not isinstance(got, Tensor):
        cure = "" if got is None else f"; torch.as_tensor({name}) makes one" if hasattr(got, "__len__") else ""
        return f"{expected}, got {'None' if got is None else f'a {type(got).__name__}'}{cure}"
    if got.is_quantized:
        return f"{expected}, got a quantised one ({got.dtype}); {name}.dequantize() is plain"
    if got.is_nested:
        return f"{expected}, got a nested one; pad it with torch.nested.to_padded_tensor"
    return f"{expected}, got one of layout {str(got.layout).removeprefix('torch.')}; {name}.to_dense() is plain"


def _wrong_dtype(op: str, name: str, dtype: torch.dtype, axes: str) -> str:
    kind = axes.partition(":")[0].rstrip("?") if ":" in axes else "real"
    kind = kind or "real"
    if dtype.is_complex and kind == "real":
        return f"{op}: {name} must be real, got {dtype}; {name}.real is"
    cure = {"integer": "long", "bool": "bool"}.get(kind, "float")
    return f"{op}: {name} must be {_KINDS[kind][1]}, got {dtype}; pass {name}.{cure}()"


def _message(
    op: str, name: str, shape: tuple[int, ...], forms: list[tuple[str | int, ...]], sizes: dict[str, int]
) -> str:
    expected = ["(" + ", ".join(f"{x}={sizes[x]}" if x in sizes else str(x) for x in form) + ")" for form in forms]
    text = f"{op}: {name} must have shape {' or '.join(expected)}, got {shape}"
    if len(shape) > 6:
        return text
    for form in forms:
        for order in permutations(range(len(shape))):
            turned = tuple(shape[i] for i in order)
            if turned != shape and len(form) == len(shape) and _fits(turned, form, dict(sizes)):
                return f"{text}; {name}.permute{order} has the expected sizes"
    return text
