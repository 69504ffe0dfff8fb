"""Errors that are the user's to mend. The command line prints them as one line and exits with 2."""

import errno
import os
import re
import signal
import sys
import threading
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


_came: list[int] = []  # the signals that `interrupt` has raised


def interrupt(number: int, frame: Any = None) -> None:
    """What the command line does on a signal that ends a program."""
    _came.append(int(number))
    raise Interrupted(number)


def interrupted_by() -> int:
    """The signal that `interrupt` raised, 0 where none came.

    It may come anywhere, also in a library that makes another error of it, such as "cannot be imported"; what fails
    after it is its consequence.
    """
    return _came[-1] if _came else 0


def watch_signals() -> None:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does; a program's own handlers stay.

    Where Python cannot raise, in a callback of the garbage collector or of a fork, it prints the exception and goes on;
    there the signal is sent once more.
    """
    _came.clear()
    if threading.current_thread() is not threading.main_thread():
        return
    for number in STOPPING:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, interrupt)
    before = sys.unraisablehook

    def again(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            number = getattr(unraisable.exc_value, "number", signal.SIGINT)
            # a moment later and from another thread: at once it would be raised in the hook
            timer = threading.Timer(0.1, os.kill, (os.getpid(), number))
            timer.daemon = True
            timer.start()
        else:
            before(unraisable)

    if before is sys.__unraisablehook__:
        sys.unraisablehook = again


def exit_code_of(error: BaseException | None) -> int:
    """What a program that was interrupted ends with: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + (getattr(error, "number", 0) or interrupted_by() or signal.SIGINT)


class UserError(Exception):
    """A mistake that the user can correct: says what was got, what was expected and what to do."""

    exit_code = 2


def explain_system(error: BaseException) -> tuple[str, int] | None:
    """One line for what the machine refuses, with what to do, and the exit code; None for any other error.

    2 is what the user can change without another machine: names, permissions; 1 is a full disk or too little memory.
    """
    no_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if no_memory or any(word in str(error) for word in _NO_MEMORY):
        what = str(error).strip().split("\n")[0][:200]
        needed = re.search(r"(?:[Tt]ried|Unable) to allocate ([\d.]+ ?\w+)", str(error))
        detail = f" ({needed[1]} were needed at once)" if needed else f" ({what})" if what else ""
        return f"out of memory{detail}; take a smaller model, image, length or batch, or another machine", 1
    if not isinstance(error, OSError) or error.errno is None:
        return None
    path, number, name = error.filename, error.errno, errno.errorcode.get(error.errno, "")
    path = os.fsdecode(path) if isinstance(path, bytes) else path
    where = f"{path}: " if path else ""
    if name in ("ENOSPC", "EDQUOT", "EFBIG"):
        return f"{where}no space left; what was there is intact; make room, then repeat the command", 1
    if name == "EIO":
        return f"{where}the disk cannot be read or written (input/output error); check it, then repeat the command", 1
    if name in ("EACCES", "EPERM", "EROFS"):
        return f"{where}{error.strerror}; change its permissions, or take another place", 2
    if name in ("ENOTDIR", "EEXIST"):
        return f"{where}a file is there where a folder is needed; move it away, or take another place", 2
    if name == "EISDIR":
        return f"{where}a folder is there where a file is needed; give the name of a file", 2
    if name == "ENOENT":
        return f"{where}there is no such file or folder; check the name", 2
    if name == "ENAMETOOLONG":
        return f"{str(path)[:60]}...: the name is too long; take a shorter one", 2
    if name == "EMFILE":
        return f"{where}too many files are open; raise the limit with `ulimit -n`", 1
    return f"{where}{os.strerror(number)}", 1


# What torch says where memory does not suffice; oneDNN does not say why a product cannot be made, and it is that
_NO_MEMORY = ("can't allocate memory", "out of memory", "could not create a primitive", "bad allocation")


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
