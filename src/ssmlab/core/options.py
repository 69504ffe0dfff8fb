"""Options of a function as a dataclass: written once, with the text below each field as the help of the command.

Nothing here imports torch or numpy, so that `--help` is fast.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from inspect import get_annotations
from typing import Annotated, Any, ClassVar, Self

from ssmlab.core.errors import UserError
from ssmlab.core.text import did_you_mean

DEVICES = ("auto", "cuda", "mps", "cpu")


@dataclass(frozen=True, kw_only=True)
class Option:
    """How the command line writes a field, where the field's type does not say it; used in `Annotated`.

    Args:
        flag: "--severity" for a field `severities`; the field's name if empty. short: "-o".
        least, most: the smallest and the largest number.
        kind: the type on the command line, where the function takes more than that.
        read: makes the value from a text; `text` is then the default as text.
        metavar: what the help calls the value.
        command: False keeps the field from the command line.
    """

    flag: str = ""
    short: str = ""
    least: float | None = None
    most: float | None = None
    kind: type | None = None
    read: Callable[[str], Any] | None = None
    text: str | None = None
    metavar: str | None = None
    command: bool = True


Count = Annotated[int, Option(least=0)]
Positive = Annotated[int, Option(least=1)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all options. The text below a field is the command's help; words in braces are class variables."""

    devices: ClassVar[tuple[str, ...]] = DEVICES  # that a field of the name `device` may have

    def __post_init__(self) -> None:
        device = getattr(self, "device", None)
        if device is not None and device not in self.devices:
            *some, last = self.devices
            raise UserError(f"--device must be {', '.join(some)} or {last}, got {device!r}")

    @classmethod
    def field_names(cls) -> list[str]:
        """The fields in the order of the help: those of the class itself, then those that it shares."""
        shared = [name for base in cls.__bases__ if issubclass(base, Options) for name in base.field_names()]
        known = [field.name for field in fields(cls)]
        return [name for name in get_annotations(cls) if name in known and name not in shared] + shared

    @classmethod
    def of(cls, options: Self | None, given: dict[str, Any], where: str) -> Self:
        """Options with the fields that were given one by one, as `where`(..., seed=1); these win.

        Raises:
            UserError: there is no such option.
        """
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                hint = did_you_mean(name, names) or f"; there are {', '.join(names)}"
                raise UserError(f"{where} has no option {name!r}{hint}")
        return cls(**given) if options is None else replace(options, **given)

    def changed(self, *left_out: str) -> dict[str, Any]:
        """The fields that differ from their defaults, without some of them."""
        return {
            field.name: value
            for field in fields(self)
            if field.name not in left_out and (value := getattr(self, field.name)) != field.default
        }
