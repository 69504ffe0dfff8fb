"""A lock in a folder: one process at a time works there, and the lock of one that is gone is taken over.

The file `.lock` holds host, process number, boot id of the kernel and start time of the process. It is made whole under
another name and linked, so that nobody reads half of it. While it is held its time is set every minute, which is what
another machine can see of the holder's life.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ssmlab.core.errors import UserError
from ssmlab.core.progress import duration

FILE = ".lock"
SIGN_SECONDS, SILENT_SECONDS = 60.0, 300.0  # between two signs of life; after which another machine counts as gone


def holder_of(folder: Path) -> dict[str, Any] | None:
    """Who works in a folder: "host", "pid", "since" and, of another machine, "silent" seconds; None if nobody does."""
    return _holder_in(folder / FILE)


def _holder_in(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        host, pid = found["host"], int(found["pid"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or one of a machine that lost its power
        return None
    if host == platform.node() and os.name != "nt":  # on Windows a signal 0 ends the process that is asked
        if (found.get("boot"), found.get("started")) != (_boot(), _started(pid)):
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:  # another user's
            pass
        return found
    try:
        probe = file.with_name(f"{FILE}.{os.getpid()}.clock")  # the file system's clock may be another one than ours
        probe.touch()
        found["silent"] = probe.stat().st_mtime - file.stat().st_mtime
        probe.unlink()
    except OSError:  # a folder that cannot be written to, or a lock that has gone in this moment
        found["silent"] = 0.0
    return found if found["silent"] < SILENT_SECONDS else None


def refuse_held(folder: Path) -> None:
    """Raise a UserError that names the process, where one works in this folder."""
    found = holder_of(folder)
    if found is None:
        return
    if "silent" in found:
        raise UserError(
            f"{folder} is in use by process {found['pid']} on {found['host']}, seen {duration(found['silent'])} ago; "
            f"wait for it, or take another name or folder; if it is gone, {folder / FILE} counts as left behind "
            f"{duration(SILENT_SECONDS)} after its last sign of life, or delete that file"
        )
    raise UserError(
        f"{folder} is in use by process {found['pid']} since {found['since']}; wait for it, stop it with "
        f"`kill {found['pid']}` (it saves a checkpoint first), or give this run another name=..."
    )


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Hold the lock of a folder, which is made where it is missing.

    Raises:
        UserError: another process holds it; names that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, own = folder / FILE, folder / f"{FILE}.{os.getpid()}"
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    about = {"host": platform.node(), "pid": os.getpid(), "boot": _boot(), "started": _started(os.getpid())}
    text = json.dumps(about | {"since": since})
    try:
        own.write_text(text, encoding="utf-8")
        while not _taken(own, file):
            refuse_held(folder)
            _remove_stale(folder, own)
    finally:
        own.unlink(missing_ok=True)
    over = threading.Event()

    def show_life() -> None:
        while not over.wait(SIGN_SECONDS):
            with suppress(OSError):
                os.utime(file)

    threading.Thread(target=show_life, daemon=True).start()
    try:
        yield folder
    finally:
        over.set()
        with suppress(OSError):  # the folder may be gone
            if file.read_text(encoding="utf-8") == text:
                file.unlink()


def _taken(own: Path, file: Path) -> bool:
    """Whether the lock has become ours: of several that try at once, one's link or file is made."""
    try:
        os.link(own, file)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            with open(file, "x", encoding="utf-8") as made:
                made.write(own.read_text(encoding="utf-8"))
        except FileExistsError:
            return False
    return True


def _remove_stale(folder: Path, own: Path) -> None:
    """Take away a lock that nobody holds. If another process has put its own there meanwhile, that is put back."""
    aside = own.with_name(f"{own.name}.stale")
    with suppress(FileNotFoundError):
        os.replace(folder / FILE, aside)
        if _holder_in(aside) is not None:
            _taken(aside, folder / FILE)
        aside.unlink()


def _boot() -> str | None:
    """What identifies this start of the machine's kernel, where the system says it."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return None


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the boot, where the system says it: numbers of processes are used again.

    None too for one that has ended and is still listed.
    """
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    return None
