"""Argument checks that print what was got, what was expected and, where it is a transposition, the cure."""

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
        shape = tuple(tensor.shape)
        for alternative in axes.split("|"):
            found = _match(shape, alternative.split(), sizes)
            if found is not None:
                sizes |= found
                break
        else:
            raise ShapeError(_message(op, name, shape, axes, sizes))
    return sizes


def _match(shape: tuple[int, ...], letters: list[str], sizes: dict[str, int]) -> dict[str, int] | None:
    """The sizes that this tensor fixes anew, or None where it does not fit."""
    if len(shape) != len(letters):
        return None
    found: dict[str, int] = {}
    for letter, size in zip(letters, shape, strict=True):
        expected = int(letter) if letter.isdigit() else sizes.get(letter, found.get(letter, size))
        if expected != size:
            return None
        if not letter.isdigit() and letter not in sizes:
            found[letter] = size
    return found


def _message(op: str, name: str, shape: tuple[int, ...], axes: str, sizes: dict[str, int]) -> str:
    alternatives = [alternative.split() for alternative in axes.split("|")]
    forms = ["(" + ", ".join(f"{x}={sizes[x]}" if x in sizes else x for x in form) + ")" for form in alternatives]
    text = f"{op}: {name} must have shape {' or '.join(forms)}, got {shape}"
    for form in alternatives:
        for order in permutations(range(len(shape))):
            turned = tuple(shape[i] for i in order)
            if turned != shape and _match(turned, form, sizes) is not None:
                return f"{text}; {name}.permute{order} has the expected sizes"
    return text
