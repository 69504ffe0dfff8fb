"""Errors that are the user's to mend. The command line prints them as one line and exits with 2."""


import signal
from typing import Any

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or another signal that ends a program: SIGTERM of a scheduler, SIGHUP of a closed terminal.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGINT):
        super().__init__(number)
        self.number = int(number)


def interrupt(number: int, frame: Any = None) -> None:
    """What the command line does on a signal that ends a program."""
    raise Interrupted(number)


def exit_code_of(error: BaseException | None) -> int:
    """What a program that was interrupted ends with: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + getattr(error, "number", signal.SIGINT)


class UserError(Exception):
    """A mistake that the user can correct: says what was got, what was expected and what to do."""

    exit_code = 2


class ShapeError(UserError, ValueError):
    """An argument of an operator or a block has the wrong size, dtype or device, or is no tensor at all."""


class BackendError(UserError, RuntimeError):
    """A backend that was requested by name cannot run here, or cannot run this call."""


class RecipeError(UserError, ValueError):
    """A recipe has an unknown key, a wrong type or a value out of range."""


class ModelError(UserError, ValueError):
    """An unknown model name, or sizes that make no model."""


class DataError(UserError, ValueError):
    """Data that cannot be read. `problems` lists every one of them, by file name."""

    def __init__(self, message: str, problems: list[str] | None = None):
        self.problems = list(problems or [])
        super().__init__("\n".join([message, *("  " + p for p in self.problems)]))
