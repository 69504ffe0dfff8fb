"""Labels that people bring along, as numbers of classes."""

from typing import Any

from ssmlab.core.errors import UserError


def class_number(label: Any, classes: tuple[str, ...] = ()) -> int:
    """A label of any numeric type as the number of its class; 1.0 counts as 1.

    Args:
        classes: names, where the number must be one of theirs.
    Raises:
        UserError: it is no whole number from 0 on, or too large.
    """
    try:
        number, exact = int(label), float(label)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # texts, vectors, nan
        number, exact = -1, 0.0
    if number != exact or number < 0 or isinstance(label, str):
        shown = " ".join(repr(label).split())
        raise UserError(f"a label must be the number of a class, 0, 1, 2 ..., got {shown:.60}")
    if classes and number >= len(classes):
        some = ", ".join(classes[:5]) + (" ..." if len(classes) > 5 else "")
        raise UserError(f"label {number} is no class: the {len(classes)} classes ({some}) have the labels 0 to "
                        f"{len(classes) - 1}; mend the label or create the model with more classes")  # fmt: skip
    return number
