"""Sizes and SHA-256 of the files of a folder, as they were written: so that damage is reported, not computed with."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ssmlab.core.files import read_json, write_json

FILE = "checksums.json"  # {"made_by": MAKER, "files": {name: [size, SHA-256]}, "files_sha256": of these two}
MAKER = "ssmlab"  # others have files of this name
OWN = "files_sha256"  # so that its own damage is not taken for another file's


def write_checksums(folder: Path, files: Mapping[str, Path], later: Mapping[str, str] | None = None) -> None:
    """Write checksums.json of a folder.

    Args:
        files: where they lie now, by their names relative to the folder.
        later: texts by the names of files that are written next: what counts as a mark that all is there comes last.
    """
    found = {name: of_file(files[name]) for name in sorted(files)}
    for name, text in (later or {}).items():
        content = text.encode("utf-8")
        found[name] = [len(content), hashlib.sha256(content).hexdigest()]
    written = {"made_by": MAKER, "files": found}
    write_json(folder / FILE, written | {OWN: _own(written)})


def _own(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def of_file(path: Path) -> list:
    """Size and SHA-256 of a file."""
    with open(path, "rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def damages(
    folder: Path, names: Callable[[str], bool] = lambda name: True, hashed: Callable[[str], bool] = lambda name: True
) -> list[str]:
    """Which files of a folder are not what was written there, and how; [] where it has no checksums.json.

    Args:
        names: which files count, by name.
        hashed: of which the content is compared and not the size alone.
    """
    try:
        sums = known(folder)
    except ValueError:
        return [f"{folder / FILE} is damaged"]
    found = []
    for name, (size, digest) in sums.items():
        path = folder / name
        if not names(name):
            continue
        if not path.is_file():
            found.append(f"{path} is missing")
        elif path.stat().st_size != size:
            found.append(f"{path} has {path.stat().st_size:,} bytes, {size:,} were written")
        elif hashed(name) and of_file(path)[1] != digest:
            found.append(f"{path} has another content than was written")
    return found


def known(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 by name, {} where a folder has no checksums.json of ours.

    Raises:
        ValueError: it is damaged.
    """
    try:
        content = read_json(folder / FILE)
        own = content.pop(OWN, None)  # versions before have none
        if own is None and content.get("made_by") != MAKER:
            return {}
        if own not in (None, _own(content)) or content.keys() != {"made_by", "files"}:
            raise ValueError(f"{folder / FILE} is damaged")
        return {name: (int(size), str(digest)) for name, (size, digest) in content["files"].items()}
    except (AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / FILE} is damaged") from error
