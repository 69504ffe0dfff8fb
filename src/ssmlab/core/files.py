"""Writing files so that readers see the old one or the new one, never half of one; and reading JSON."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ssmlab.core.record import Record
from ssmlab.core.world import discards

NO_SPACE = 64 << 20  # so few bytes are left where a disk was full a moment ago, and a half-written file is deleted


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file under a temporary name next to it, then rename: readers see the old or the new one.

    Raises:
        OSError: with the path, whoever found that it could not be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing(path):
            write(temporary)
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


# What torch and safetensors say of a file that could not be written
_FAILED = ("PytorchStreamWriter failed", "inline_container.cc", "I/O error", "iostream error", "(os error ")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file that is written becomes an OSError with its path."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)
        raise
    except Exception as error:
        if not any(word in str(error) for word in _FAILED):
            raise
        code = re.search(r"\(os error (\d+)\)", str(error))
        there = next(place for place in (path.parent, *path.parents) if place.exists())
        full = errno.ENOSPC if shutil.disk_usage(there).free < NO_SPACE else errno.EIO
        number = int(code[1]) if code else full
        raise OSError(number, os.strerror(number), str(path)) from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a text (UTF-8) or bytes as a file, as `write_file` does, and on the disk when this returns."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())

    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, write)


def write_tensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as a safetensors file, as `write_file` does, for all who may read a new file of the user's.

    A process whose files are thrown away writes none (`core.world.discarding`).
    """
    from safetensors.torch import save_file  # torch

    def write(temporary: Path) -> None:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file({} if discards() else tensors, temporary, metadata)
        temporary.chmod(mode)  # safetensors 0.8 writes files that their owner alone can read

    write_file(path, write)


def records_text(records: list[Record]) -> str:
    """Records as lines of JSON."""
    return "".join(record.to_json() + "\n" for record in records)


def write_records(path: Path, records: list[Record]) -> None:
    """Write records as lines of JSON, in place of a file that may be there."""
    write_atomically(path, records_text(records))


def write_json(path: Path, content) -> None:
    """Write plain values as indented JSON, in place of a file that may be there."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """A JSON object, or {} where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
