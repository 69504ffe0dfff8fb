"""CSV files: MHIST annotations, and the groups (patients, slides) that a user names next to the data."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from os.path import basename
from pathlib import Path

from ssmlab.data.contents import Item, did_you_mean, some
from ssmlab.data.files import plain_name
from ssmlab.data.images.decode import UnreadableImage
from ssmlab.data.text.encoding import decode_text, head_of_text

FILE_COLUMNS = ("file", "file_name", "filename", "path")
GROUP_TABLES = ("groups.csv", "metadata.csv")


@dataclass
class Table:
    """Rows of a CSV file with their line numbers; cells without surrounding blanks."""

    name: str
    columns: list[str] = field(default_factory=list)
    rows: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_table(name: str, read: Callable[[], bytes]) -> Table:
    """Read a CSV file as spreadsheets write it: separated by commas, semicolons or tabs, in UTF-8 or, with a byte order
    mark, UTF-16; a first line `sep=;` and empty lines are passed over."""
    table = Table(name)
    try:
        text = decode_text(read())
    except ValueError as error:
        table.problems.append(f"{name}: {error}, or save it as CSV in UTF-8")
        return table
    except (OSError, UnreadableImage) as error:
        table.problems.append(f"{name}: cannot be read ({error}); replace the file")
        return table
    first, named, skipped = "", "", 0
    for first in text.split("\n"):
        match = re.fullmatch(r'"?sep=(.)"?', first.strip(" "))
        if first.strip(" ,;\t") and not match:
            break
        named, skipped = match[1] if match else named, skipped + 1
    separator = named or max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO("\n".join(text.split("\n")[skipped:]), newline=""), delimiter=separator)
    try:
        table.columns = [cell.strip() for cell in next(reader, [])]
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            line = reader.line_num + skipped
            while len(cells) > len(table.columns) and not cells[-1].strip():
                cells.pop()
            if len(cells) != len(table.columns):
                wrong = f"{len(cells)} cells, expected {len(table.columns)}"
                table.problems.append(f"{name}, line {line}: {wrong}; mend the row")
                continue
            row = dict(zip(table.columns, (cell.strip() for cell in cells), strict=True))
            table.rows.append((line, row))
    except csv.Error as error:
        table.problems.append(f"{name}, line {reader.line_num + skipped}: {error}; mend the row")
    return table


def read_header(name: str, head: bytes) -> Table:
    """A table's columns, and as many rows as its first bytes hold."""
    return read_table(name, head_of_text(head).encode)


def tables_in(folder: Path) -> list[Table]:
    """groups.csv and metadata.csv of a folder on disk."""
    paths = [folder / name for name in GROUP_TABLES]
    return [read_table(path.name, path.read_bytes) for path in paths if path.is_file()]


def is_pattern(column: str) -> bool:
    """Whether groups are named by a regular expression of the files' paths, whose first brackets hold the group, as in
    "(patient[0-9]+)_", and not by a column of a table."""
    return "(" in column


def group_title(column: str | None) -> str:
    """What pages call the groups of a column, of a pattern, or those that the data themselves name."""
    return "piece of the file name" if column and is_pattern(column) else column or "group"


def groups_by_name(ids: Sequence[str], pattern: str) -> tuple[dict[str, str], list[str]]:
    """The group of every id by a pattern, and the problems: it is none, or it does not match."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        return {}, [f"group {pattern!r}: no regular expression ({error}); such as '(patient[0-9]+)_'"]
    if not expression.groups:
        return {}, [f"group {pattern!r}: no brackets that hold the group, such as '(patient[0-9]+)_'"]
    found = {id_: match[1] for id_ in ids if (match := expression.search(id_)) and match[1]}
    without = [id_ for id_ in ids if id_ not in found]
    if without:
        return found, [f"group {pattern!r}: {len(without):,} of {len(ids):,} files do not match it ({some(without)})"]
    return found, []


def add_groups(items: list[Item], column: str, tables: list[Table], where: str) -> tuple[list[Item], list[str]]:
    """Give every item the group that `groups.csv` or `metadata.csv` names for it.

    The table has a column `file` (or file_name, filename, path) with the ids of the images, such as
    `train/cat/1.png` (or the bare file name where only one image bears it), and the requested column.

    Args:
        column: or a pattern of the ids, see `is_pattern`.
        tables: those found; the first with the column is used.
        where: where they were looked for, for the message.
    Returns:
        the items with their groups, and the problems: no such table or column, empty cells, missing rows.
    """
    if is_pattern(column):
        by_name, problems = groups_by_name([item.id for item in items], column)
        return [replace(item, group=by_name.get(item.id)) for item in items], problems
    table = next((table for table in tables if column in table.columns), None)
    if table is None:
        known = [c for table in tables for c in table.columns if c.casefold() not in FILE_COLUMNS]
        columns = [f"{table.name} has the columns {', '.join(table.columns)}" for table in tables]
        found = "; ".join(columns) or "there is none"
        return items, [
            *(problem for table in tables for problem in table.problems),
            f"group {column!r}: no groups.csv or metadata.csv with this column {where} ({found}); "
            f"write groups.csv with the columns file,{column}{did_you_mean(column, known)}",
        ]
    key = next((c for c in table.columns if c.casefold() in FILE_COLUMNS), None)
    if key is None:
        fix = f"add it, with ids such as {items[0].id!r}"
        return items, [f"{table.name}: no column 'file' among {', '.join(table.columns)}; {fix}"]

    counts = Counter(basename(item.id) for item in items)
    bare = {basename(item.id): item.id for item in items if counts[basename(item.id)] == 1}
    groups: dict[str, str] = {}
    problems = list(table.problems)
    for line, row in table.rows:
        if not row[column]:
            problems.append(f"{table.name}, line {line}: {row[key]} has no {column}; fill it in")
        file = plain_name(row[key].replace("\\", "/").removeprefix("./"))
        file = bare.get(file, file)
        if groups.setdefault(file, row[column]) != row[column]:
            problems.append(
                f"{table.name}, line {line}: {file} is in {groups[file]!r} and {row[column]!r}; keep one row"
            )
    without = [item.id for item in items if item.id not in groups]
    if len(without) == len(items) and items:
        problems.append(f"{table.name}: none of its files is an image here; write them like {items[0].id!r}")
    elif len(without) > 20:
        problems.append(f"{table.name}: {len(without):,} images have no row ({some(without)}); add them")
    else:
        problems += [f"{name}: has no row in {table.name}; add one" for name in without]
    return [replace(item, group=groups.get(item.id) or None) for item in items], problems
