"""What the cells of a table name: files of a data set, records of FASTA files, or labels."""

import re
from collections.abc import Sequence

from ssmlab.data.contents import JOINT
from ssmlab.data.files import plain_name
from ssmlab.data.names import stem_of
from ssmlab.data.parts import parts_of

NONE = ("no finding", "none", "")  # cells that say that a file has none of several labels


class FileNames:
    """The files that a cell may mean."""

    def __init__(self, names: Sequence[str]):
        self.exact, self.parts = set(names), dict(zip(names, parts_of(names), strict=True))
        self.base: dict[str, list[str]] = {}
        self.stem: dict[str, list[str]] = {}
        for name in names:
            self.base.setdefault(name.rpartition("/")[2], []).append(name)
            self.stem.setdefault(stem_of(name), []).append(name)

    def find(self, cell: str, folder: str = "", part: str | None = None) -> list[str]:
        """The files of this name, of several those of the part."""
        path = plain_name(cell.replace("\\", "/")).removeprefix("./").strip("/")
        for whole in (f"{folder}/{path}" if folder else path, path):
            if whole in self.exact:
                return [whole]
        base = path.rpartition("/")[2]
        found = self.base.get(base) or self.stem.get(base) or self.stem.get(stem_of(base), []) if base else []
        if len(found) > 1:
            ending = [name for name in found if name.endswith("/" + path)]
            found = ending or [name for name in found if part and self.parts[name] == part] or found
        return found


class Records:
    """The records of FASTA files that a cell may mean: a record's name, or "<file>:<name>".

    Args:
        names: "<file>:<name>" of each. files: that of each.
    """

    def __init__(self, names: Sequence[str], files: Sequence[str]):
        self.parts = dict(zip(names, parts_of(files), strict=True))
        self.named: dict[str, list[str]] = {}
        for name, file in zip(names, files, strict=True):
            own = name[len(file) + 1 :]
            base = file.rpartition("/")[2]
            for way in {own, name, f"{base}:{own}"}:
                self.named.setdefault(way, []).append(name)

    def find(self, cell: str, folder: str = "", part: str | None = None) -> list[str]:
        """The records of this name, of several those of the part; of a whole header its first word counts."""
        words = cell.removeprefix(">").split()
        found = self.named.get(cell) or (self.named.get(words[0], []) if words else [])
        return [name for name in found if part and self.parts[name] == part] or found if len(found) > 1 else found


def number_in(text: str) -> float | None:
    """The number in a cell; None where it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def label_of(row: dict[str, str], columns: list[str], several: bool) -> tuple[str, bool]:
    """What a row says, several labels joined, and whether it says anything."""
    if len(columns) > 1:
        ones = [name for name in columns if number_in(row[name]) == 1]
        return JOINT.join(ones), several or bool(ones)
    cell = row[columns[0]]
    if not several:
        return cell, bool(cell)
    names = [name.strip() for name in re.split(r"[|;]", cell)]
    return JOINT.join(name for name in names if name.casefold() not in NONE), True
