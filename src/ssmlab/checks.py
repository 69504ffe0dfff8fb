"""Argument checks that print what was got, what was expected and, where it is a transposition, the cure."""

from collections.abc import Sequence
from itertools import permutations

from ssmlab.errors import ShapeError


def check_shapes(op: str, known: dict[str, int] | None = None, /, **arguments) -> dict[str, int]:
    """Check tensors against named axes and return the size of every name.

    Args:
        op: the caller's name, which starts the message.
        known: sizes that are fixed already.
        arguments: `name=(tensor or None, "b d l")`; a number is a fixed size, alternatives are separated by `|`. The
            first tensor that uses a letter fixes its size; an absent tensor (None) is passed over.
    Raises:
        ShapeError: a tensor has another number of axes, or a size that disagrees with an earlier one.
    """
    sizes = dict(known or {})
    for name, (tensor, axes) in arguments.items():
        if tensor is None:
            continue
        shape = tensor.shape
        for form in _FORMS.get(axes) or _forms(axes):
            if len(form) == len(shape) and _fits(shape, form, sizes):
                break
        else:
            raise ShapeError(_message(op, name, tuple(shape), axes, sizes))
    return sizes


_FORMS: dict[str, list[tuple[str | int, ...]]] = {}  # read once: a check costs a tenth of a short scan's time


def _forms(axes: str) -> list[tuple[str | int, ...]]:
    """ "b l|l 4" as [("b", "l"), ("l", 4)]."""
    forms = [tuple(int(c) if c.isdigit() else c for c in form.split()) for form in axes.split("|")]
    _FORMS[axes] = forms
    return forms


def _fits(shape: Sequence[int], form: tuple[str | int, ...], sizes: dict[str, int]) -> bool:
    """Whether a shape of as many axes has this form; the sizes that it fixes anew are added to `sizes`."""
    new = []
    for axis, size in zip(form, shape):  # noqa: B905 (checked by the caller; `strict` takes longer than the rest)
        named = isinstance(axis, str)
        if named and axis not in sizes:
            sizes[axis] = size
            new.append(axis)
        elif (sizes[axis] if named else axis) != size:
            for added in new:
                del sizes[added]
            return False
    return True


def _message(op: str, name: str, shape: tuple[int, ...], axes: str, sizes: dict[str, int]) -> str:
    alternatives = _forms(axes)
    forms = ["(" + ", ".join(f"{x}={sizes[x]}" if x in sizes else str(x) for x in form) + ")" for form in alternatives]
    text = f"{op}: {name} must have shape {' or '.join(forms)}, got {shape}"
    for form in alternatives:
        for order in permutations(range(len(shape))):
            turned = tuple(shape[i] for i in order)
            if turned != shape and len(form) == len(shape) and _fits(turned, form, dict(sizes)):
                return f"{text}; {name}.permute{order} has the expected sizes"
    return text
