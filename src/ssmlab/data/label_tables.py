"""Tables that say the class of every file: labels.csv, train.csv, metadata.csv and whatever they are called.

What a column means is found from its content:

    files     the column whose values name files of the data set: paths or names, with or without a suffix
    classes   the column that the user names; else the one column with a usual name (label, class, dx, diagnosis ...);
              else columns of 0 and 1 of which every row has a single 1; else the one column that can hold classes
    parts     the column whose values are train, val, test in any spelling; else tables that are named after parts; else
              folders
    groups    only where the user names a column, of the same table or of another that names the files (groups.csv); a
              patient's or a lesion's that repeats is pointed out

What is not clear is a problem that names the columns. A table without a header, as ISIC 2016 has it, counts its
columns.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from ssmlab.data.contents import JOINT, alike, count, did_you_mean, some
from ssmlab.data.files import Files
from ssmlab.data.named import FileNames, Records, label_of, number_in
from ssmlab.data.names import FILLERS, IMAGE_FOLDERS, PART_WORDS, folder_meaning, is_filler, stem_of
from ssmlab.data.parts import top_of
from ssmlab.data.tables import FILE_COLUMNS, Table, groups_by_name, is_pattern, read_table

ENDINGS = (".csv", ".tsv")
NAMED = frozenset(
    [
        *("label", "labels", "class", "classes", "classid", "classname", "category", "target", "diagnosis", "dx"),
        *(
            "klasse",
            "classe",
            "clase",
            "species",
            "breed",
            "grade",
            "finding",
            "findinglabels",
            "groundtruth",
            "imagelabel",
            "labelname",
        ),
    ]
)
GROUPS = re.compile("(patient|subject|lesion|case|slide|participant|person|speaker|fold)(s?id|name|number|)s?")
FEW = 200  # rows by which a column is first judged
MANY = 20  # more problems of one kind become one line
FOLDERS, TABLE = "folders", "table"  # data.labels, where folders and a table say different classes
SEVERAL = "several"  # data.labels, where a file may have several labels


class Row(NamedTuple):
    """What a table says about a file; part and group are None where it does not say them."""

    label: str
    part: str | None
    group: str | None
    fold: str | None = None


@dataclass
class Labels:
    """What the tables of a data set say.

    Attributes:
        tables: their names. rows: by file.
        named: whether the column of the classes was named by the user, or has a usual name or a single 1.
        column: its name.
        groups: by file, from whichever tables have the column of the groups, `group_tables`. group_problems: what is
            wrong with them.
        unclear: whether several columns may hold the classes.
        several: whether a file may have several labels, which are joined in its row. names: of the labels, in order.
    """

    tables: list[str]
    rows: dict[str, Row] = field(default_factory=dict)
    named: bool = False
    column: str = ""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    group_tables: list[str] = field(default_factory=list)
    group_problems: list[str] = field(default_factory=list)
    unclear: bool = False
    several: bool = False
    names: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        if self.names:
            return self.names
        names = {row.label for row in self.rows.values()}
        if self.several:
            names = {name for label in names for name in label.split(JOINT)} - {""}
        return tuple(sorted(names, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name)))


class _Known(NamedTuple):
    """A table whose column `file` names files; part: that it is named after."""

    table: Table
    file: str
    part: str | None

    @property
    def folder(self) -> str:
        return self.table.name.rpartition("/")[0]

    def values(self, column: str) -> list[str]:
        return [row[column] for _, row in self.table.rows]


def read_labels(
    files: Files, names: Sequence[str] | Records, *, column: str = "", group: str | None = None
) -> Labels | None:
    """The classes of files by the tables next to them, at most one folder down.

    Args:
        names: of the files that may have a class, or the records of FASTA files.
        column: that of the classes, where the user names it; "table" where it is to be found. "several", or columns of
            0 and 1 with commas between them: a file may have several labels.
        group: likewise of the groups; of the table of the classes, else of another that names the files.
    Returns:
        None where no table names any of the files.
    """
    index = names if isinstance(names, Records) else FileNames(names)
    known, unreadable, top = [], [], top_of(files.files)
    for name in files.files:
        stem = re.sub(r"[\s_-]", "", stem_of(name).casefold())
        if not name.lower().endswith(ENDINGS) or name.removeprefix(top).count("/") > 1 or "submission" in stem:
            continue
        table = read_table(name, partial(files.read, name))
        if any(index.find(cell) for cell in table.columns):  # its first line is no header but names a file
            columns = [f"column {i}" for i in range(1, len(table.columns) + 1)]
            rows = [(line, dict(zip(columns, row.values(), strict=True))) for line, row in table.rows]
            rows.insert(0, (1, dict(zip(columns, table.columns, strict=True))))
            table = Table(name, columns, rows, table.problems)
        unreadable += [] if table.columns else table.problems
        file = _file_column(table, index)
        if file:
            # train.csv, and Task3_Training_GroundTruth.csv
            words = re.split(r"[\s_.-]+", stem_of(name).casefold())
            parts = {PART_WORDS[word] for word in words if word in PART_WORDS}
            part = folder_meaning(stem_of(name))[0] or (parts.pop() if len(parts) == 1 else None)
            known.append(_Known(table, file, part))
    if not known:
        return Labels([], problems=unreadable) if unreadable else None
    labels = Labels([one.table.name for one in known], problems=[p for one in known for p in one.table.problems])
    plain = next((one for one in known if {"path", "label", "group"} <= set(one.table.columns)), None)
    group = group or ("group" if plain else None)  # path,label,group is the form that docs/data.md asks for
    if group:
        _read_groups(known, index, group, labels)
    chosen = _choose(known, "" if column == TABLE else column, labels)
    if chosen is not None:
        _add_rows(chosen, index, group, labels)
    return labels


def only_hold_files(folders: Iterable[str]) -> bool:
    """Whether the names of folders say that they hold images or parts, such as Training_Input, and no classes."""
    known = IMAGE_FOLDERS | FILLERS | PART_WORDS.keys()
    return all(known & set(re.split(r"[\s_.-]+", name.casefold())) for name in folders)


def _file_column(table: Table, index: FileNames | Records) -> str | None:
    """The column that names files best: by names with a suffix before stems, then by how many it names."""
    best: tuple[tuple, str] | None = None
    folder = table.name.rpartition("/")[0]
    rows = [row for _, row in table.rows[:: max(1, len(table.rows) // FEW)]]
    for column in table.columns:
        values = {row[column] for row in rows if row[column]}
        found = {value for value in values if index.find(value, folder)}
        whole = {value for value in found if "." in value.rpartition("/")[2] and stem_of(value) != value}
        if not whole and (10 * len(found) < len(values) or 2 * len(values) < len(rows) or not found):
            continue  # numbers of classes may also be names of files
        rank = (len(whole), len(found), column.casefold() in FILE_COLUMNS)
        if best is None or rank > best[0]:
            best = rank, column
    return best[1] if best else None


def _read_groups(known: list[_Known], index: FileNames | Records, column: str, labels: Labels) -> None:
    """The groups of files, by every table that names files and has this column, such as a groups.csv; or by a pattern
    of the names."""
    if is_pattern(column):
        rows = [(one, row) for one in known for _, row in one.table.rows]
        named = {name for one, row in rows for name in index.find(row[one.file], one.folder, one.part)[:2]}
        labels.groups, labels.group_problems = groups_by_name(sorted(named), column)
        return
    having = [one for one in known if column in one.table.columns]
    if not having:
        every = [name for one in known for name in one.table.columns]
        held = "; ".join(
            f"{one.table.name}: no column {column!r} among {', '.join(one.table.columns)}" for one in known
        )
        labels.group_problems.append(held + did_you_mean(column, every))
    labels.group_tables = [one.table.name for one in having]
    for one in having:
        for line, row in one.table.rows:
            for name in index.find(row[one.file], one.folder, one.part)[:2] if row[column] else ():
                if labels.groups.setdefault(name, row[column]) != row[column]:
                    labels.group_problems.append(
                        f"{one.table.name}, line {line}: {row[one.file]} is in {labels.groups[name]!r} and "
                        f"{row[column]!r}; keep one row"
                    )


def _choose(known: list[_Known], column: str, labels: Labels) -> tuple[list[_Known], list[str]] | None:
    """The tables that say classes, and the column or the columns of 0 and 1 that do."""
    wanted = [name.strip() for name in column.split(",")]
    labels.several = column == SEVERAL or len(wanted) > 1
    if column == SEVERAL:
        found: list[tuple[_Known, list[str], bool]]
        found = [(one, _binary(one) or _label_columns(one)[0], True) for one in known]
        found = [item for item in found if item[1]]
        wide = [item for item in found if len(item[1]) > 1]
        if not found or (wide and any(item[1] != wide[0][1] for item in wide)):
            labels.problems.append("data.labels=several: no table has columns of 0 and 1; name them, a,b,c")
            return None
        found = wide or found
    elif column:
        having = [one for one in known if set(wanted) <= set(one.table.columns)]
        if not having:
            said = "; ".join(f"{one.table.name} has {', '.join(one.table.columns)}" for one in known)
            every = [name for one in known for name in one.table.columns]
            labels.problems.append(f"data.labels={column!r}: no such column ({said}){did_you_mean(column, every)}")
            return None
        found = [(one, wanted, True) for one in having]
    else:
        found = [(one, *_label_columns(one)) for one in known]
    clear = [item for item in found if len(item[1]) == 1 or item[2]]
    clear = [item for item in clear if item[2]] or clear
    if not clear:
        said = "; ".join(f"{one.table.name}: {', '.join(names)}" for one, names, _ in found if names)
        held = "; ".join(f"{one.table.name}: {', '.join(one.table.columns)}" for one, _, _ in found)
        labels.unclear = bool(said)
        labels.problems.append(
            (
                f"which column holds the classes is not clear, those that may are: {said}"
                if said
                else f"no column holds a class for every file ({held})"
            )
            + "; name it with data.labels=COLUMN (data check --labels COLUMN), or "
            "data.labels=several where a file may have several"
        )
        return None
    same = [item for item in clear if item[1] == clear[0][1]]
    parts = [one.part for one, _, _ in same]
    if len(clear) > len(same) or (len(same) > 1 and (None in parts or len(set(parts)) < len(parts))):
        tables = some(one.table.name for one, _, _ in clear)
        labels.problems.append(f"several tables say classes ({tables}); keep one, or name its column with data.labels")
        return None
    labels.named, columns = same[0][2], same[0][1]
    labels.column = columns[0] if len(columns) == 1 else f"{columns[0]} ... {columns[-1]}"
    used = [item[0].table.name for item in same] + labels.group_tables
    unused = [one.table.name for one in known if one.table.name not in used]
    if unused:
        labels.notes.append(f"left out: {count(len(unused), 'table')} without these classes ({some(unused)})")
    labels.tables = [one.table.name for one, _, _ in same]
    return [one for one, _, _ in same], columns


def _label_columns(one: _Known) -> tuple[list[str], bool]:
    """The columns that may hold the classes, and whether that is sure: a usual name, or a single 1 in every row."""
    rest = [name for name in one.table.columns if name != one.file and name != _part_column(one)]
    named = _different(one, [name for name in rest if re.sub(r"[\s_-]", "", name.casefold()) in NAMED])
    if named:
        return named, len(named) == 1
    binary = _binary(one)
    rows = [[number_in(row[name]) for name in binary] for _, row in one.table.rows]
    if len(binary) > 1 and all(row.count(1.0) == 1 for row in rows):
        return binary, True
    may = []
    for name in rest:
        values = one.values(name)
        different = set(values) - {""}
        broken = any((number := number_in(value)) is not None and not number.is_integer() for value in different)
        if not _is_group(name) and 1 < len(different) <= max(2, len(values) // 2) and not broken:
            may.append(name)
    return _different(one, may), False


def _binary(one: _Known) -> list[str]:
    """Columns of 0 and 1."""
    rest = [name for name in one.table.columns if name not in (one.file, _part_column(one))]
    return [name for name in rest if {number_in(value) for value in one.values(name)} <= {0.0, 1.0}]


def _different(one: _Known, names: list[str]) -> list[str]:
    """Columns without those that say the same as another: of numbers and names of one class the names are kept."""
    kept: dict[tuple, str] = {}
    for name in names:
        values = one.values(name)
        first = {value: number for number, value in reversed(list(enumerate(values)))}
        same = tuple(first[value] for value in values)
        if same not in kept or all(number_in(value) is not None for value in one.values(kept[same])):
            kept[same] = name
    return list(kept.values())


def _is_group(name: str) -> bool:
    return GROUPS.fullmatch(re.sub(r"[\s_-]", "", name.casefold())) is not None


def _part(value: str) -> str | None:
    part = folder_meaning(value)[0]
    return part if part and is_filler(value) else None


def _part_column(one: _Known) -> str | None:
    """The column whose values are parts. One that is called so and has other values is it too."""
    for name in one.table.columns:
        values = set(one.values(name)) - {""}
        if name != one.file and len(values) < 10 and len({_part(value) for value in values} - {None}) > 1:
            return name
        if values and {_part(value) for value in values} == set(PART_WORDS.values()):
            return name
    return None


def _add_rows(chosen, index: FileNames | Records, group: str | None, labels: Labels) -> None:
    tables, columns = chosen
    wrong: dict[str, list[str]] = {}
    labels.problems += labels.group_problems
    if group and not labels.groups:
        labels.problems += [] if labels.group_problems else [f"{some(labels.tables)}: no {group} of any file"]
        return
    by_table = len({one.part for one in tables}) > 1
    for one in tables:
        part_column = _part_column(one)
        for line, row in one.table.rows:
            label, given = label_of(row, columns, labels.several)
            part = _part(row[part_column]) if part_column else one.part if by_table else None
            found, where = index.find(row[one.file], one.folder, one.part), f"{one.table.name}, line {line}"
            if not found:
                wrong.setdefault("whose file is missing; add it or delete the row", []).append(
                    f"{row[one.file]}: is missing ({where}); add the file or delete the row"
                )
            elif len(found) > 1:
                wrong.setdefault("that may mean several files; write their paths", []).append(
                    f"{where}: {row[one.file]!r} may mean {some(found)}; write its path"
                )
            elif not given or (part_column and not part) or (group and found[0] not in labels.groups):
                empty = columns[0] if not given else part_column if part_column and not part else group
                got = (
                    f"the unknown part {row[empty]!r}"
                    if given and empty == part_column and row[empty]
                    else f"no {empty}"
                )
                wrong.setdefault("without a class, a part or a group", []).append(
                    f"{where}: {row[one.file]} has {got}; fill it in or delete the row"
                )
            elif (
                labels.rows.setdefault(
                    found[0], Row(label, part, labels.groups.get(found[0]), row.get("fold") or None)
                ).label
                != label
            ):
                wrong.setdefault("that give a file a second class; keep one", []).append(
                    f"{where}: {row[one.file]} is {labels.rows[found[0]].label!r} and {label!r}; keep one of the rows"
                )
    for what, lines in wrong.items():
        short = [f"{some(labels.tables)}: {len(lines):,} rows {what} ({lines[0]})"]
        labels.problems += lines if len(lines) <= MANY else short
    labels.names = tuple(columns) if labels.several and len(columns) > 1 else ()
    joined = [name for name in labels.classes if JOINT in name]
    if joined:
        labels.problems.append(
            f"{some(labels.tables)}: several classes in one cell ({some(joined)}); data.labels=several reads "
            "several labels an image; else keep one, or delete these rows"
        )
    labels.warnings += alike(labels.classes)
    _note(tables, labels, group)


def _note(tables: list[_Known], labels: Labels, group: str | None) -> None:
    part = next((column for one in tables if (column := _part_column(one))), None)
    labels.notes.append(
        f"the classes are those of {some(labels.tables)}, column {labels.column}"
        + (f"; the parts those of column {part}" if part else "")
        + (f"; the groups those of {some(labels.group_tables)}, column {group}" if group else "")
    )
    for one in tables if not group else ():
        for name in one.table.columns:
            values = Counter(one.values(name))
            if name != one.file and _is_group(name) and 1 < len(values) < len(one.table.rows):
                labels.warnings.append(
                    f"{len(one.table.rows):,} rows of {one.table.name} have {len(values):,} different values of "
                    f"{name}; data.group={name} keeps those of one in one part"
                )
