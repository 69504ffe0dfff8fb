"""MHIST as published (Wei et al. 2021, arXiv:2101.12355): annotations.csv next to images/ (or images.zip).

The table may have any name and more columns, such as a patient's, which `group` names. Labels are HP and SSA;
a table that uses neither may have its own. Ids are image names. The parts are train and test; validation is
taken from train.
"""

from collections import Counter
from functools import partial

from ssmlab.core.errors import DataError
from ssmlab.data.contents import Contents, Format, Item, count, did_you_mean, some
from ssmlab.data.files import FilePictures, FolderFiles, ZipFiles, is_image, plain_name
from ssmlab.data.tables import read_header, read_table

ANNOTATIONS = "annotations.csv"
IMAGE, LABEL, PARTITION = "Image Name", "Majority Vote Label", "Partition"
VOTES = "Number of Annotators who Selected SSA (Out of 7)"
LABELS = ("HP", "SSA")  # hyperplastic polyp, sessile serrated adenoma


def find_annotations(files: FolderFiles | ZipFiles) -> list[str]:
    """Tables, at most one folder down, whose header has at least two of the three columns that are needed.

    One that is called annotations.csv and cannot be read is one too: reading it says why.
    """
    tables = [name for name in files.files if name.lower().endswith(".csv") and name.count("/") <= 1]
    found = []
    for name in tables:
        header = read_header(name, files.head(name, 4000))
        unread = name.rpartition("/")[2].lower() == ANNOTATIONS and not header.columns
        if len({IMAGE, LABEL, PARTITION} & set(header.columns)) >= 2 or unread:
            found.append(name)
    return found


def read_mhist(files: FolderFiles | ZipFiles, annotations: str, group: str | None) -> Contents:
    """Items whose image exists; problems: columns, labels, partitions, images missing or repeated."""
    table = read_table(annotations, partial(files.read, annotations))
    contents = Contents(
        name=files.path.stem if isinstance(files, ZipFiles) else files.path.resolve().name,
        format="mhist",
        classes=(),
        items=[],
        load=FilePictures(files),
        problems=files.problems + table.problems,
    )
    if not table.columns:  # the table cannot be read, and its problems say why
        contents.problems += [] if table.problems else [f"{annotations}: holds nothing; save it again as CSV in UTF-8"]
        return contents
    missing = [column for column in (IMAGE, LABEL, PARTITION, group) if column and column not in table.columns]
    for column in missing:
        hint = did_you_mean(column, table.columns)
        contents.problems.append(f"{annotations}: no column {column!r} among {', '.join(table.columns)}; add it{hint}")
    if VOTES not in table.columns:
        contents.notes.append(f"{annotations} has no column {VOTES!r} (not needed)")
    folder = annotations.rpartition("/")[0]
    prefix = f"{folder}/images/" if folder else "images/"
    if prefix.rstrip("/") not in files.folders and isinstance(files, FolderFiles):
        zips = [name for name in files.files if name.lower().endswith(".zip")]
        archives = [name for name in zips if name.rpartition("/")[0] == folder]
        if len(archives) == 1:
            files, prefix = ZipFiles(files.path / files.files[archives[0]]), "images/"
            contents.load = FilePictures(files)
            if "images" not in files.folders:
                prefix = ""
    if prefix and prefix.rstrip("/") not in files.folders:
        contents.problems.append(f"{prefix}: the folder is missing; put the images there, next to {annotations}")
    elif not missing:
        names = [name for name in files.files if name.startswith(prefix) and is_image(files, name)]
        _add_items(contents, table, {name[len(prefix) :]: name for name in names}, group)
    return contents


def _add_items(contents, table, pictures, group):
    # HP and SSA; a table with neither has its own, and one in a single row is taken for a misspelling
    counts, labels = Counter(row[LABEL] for _, row in table.rows), set(LABELS)
    if not any(label in counts for label in LABELS):
        labels = {label for label, n in counts.items() if label and n > 1} or labels
    contents.classes = tuple(sorted(labels))
    expected = " or ".join(contents.classes)
    if table.rows and not any(plain_name(row[IMAGE]) in pictures for _, row in table.rows):
        first, others = table.rows[0][1][IMAGE], len(table.rows) - 1
        contents.problems.append(
            f"{first} and {others:,} others of {table.name}: none is in images/; put the images there"
        )
        return
    lines: dict[str, int] = {}
    for line, row in table.rows:
        name, label, part = plain_name(row[IMAGE]), row[LABEL], row[PARTITION].lower()
        where, wrong = f"{table.name}, line {line}", []
        if name in lines:
            wrong.append(f"{where}: {name} is already in line {lines[name]}; keep one of the two")
        if label not in labels:
            hint = did_you_mean(label, labels)
            wrong.append(f"{where}: {name} has the unknown label {label!r}; expected {expected}{hint}")
        if part not in ("train", "test"):
            wrong.append(f"{where}: {name} has the unknown partition {row[PARTITION]!r}; expected train or test")
        if group and not row[group]:
            wrong.append(f"{where}: {name} has no {group}; fill it in")
        if name not in pictures:
            wrong.append(f"{name}: missing in images/ ({where}); add the file or delete the row")
        lines.setdefault(name, line)
        contents.problems += wrong
        if not wrong:
            contents.items.append(Item(name, label, part, pictures[name], row[group] if group else None))
    extra = [name for name in pictures if name not in lines]
    if extra:
        what = f"{count(len(extra), 'image')} that {'is' if len(extra) == 1 else 'are'} not in {table.name}"
        contents.notes.append(f"left out: {what} ({some(extra)})")


def read(files: FolderFiles | ZipFiles, group: str | None, labels: str) -> Contents | None:
    """The contents of files that are images with such a table; None where they are not."""
    tables = find_annotations(files)
    if len(tables) > 1:
        raise DataError(f"{files.path}: several tables of annotations ({some(tables)}); keep one of them")
    return read_mhist(files, tables[0], group) if tables else None


FORMAT = Format(read)  # images next to a table of labels
