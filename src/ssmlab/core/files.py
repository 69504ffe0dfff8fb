"""Writing files so that readers see the old one or the new one, never half of one; and reading JSON."""

import json
import os
from pathlib import Path

from ssmlab.core.record import Record


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name next to it, then rename: readers see the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    data = content.encode("utf-8") if isinstance(content, str) else content
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_records(path: Path, records: list[Record]) -> None:
    write_atomically(path, "".join(record.to_json() + "\n" for record in records))


def write_json(path: Path, content) -> None:
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """A JSON object, or {} where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
