"""Writing files so that readers see the old one or the new one, never half of one; and reading JSON."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssmlab.core.record import Record


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file under a temporary name next to it, then rename: readers see the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    """Write tensors as a safetensors file, as `write_file` does, for all who may read a new file of the user's."""
    from safetensors.torch import save_file  # torch

    def write(temporary: Path) -> None:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(tensors, temporary, metadata)
        temporary.chmod(mode)  # safetensors 0.8 writes files that their owner alone can read

    write_file(path, write)


def write_records(path: Path, records: list[Record]) -> None:
    """Write records as lines of JSON, in place of a file that may be there."""
    write_atomically(path, "".join(record.to_json() + "\n" for record in records))


def write_json(path: Path, content) -> None:
    """Write plain values as indented JSON, in place of a file that may be there."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """A JSON object, or {} where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
