"""CIFAR-10 and CIFAR-100 as published (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images").

CIFAR-10 is data_batch_1 to data_batch_5, test_batch and batches.meta; CIFAR-100 is train, test and meta, with fine
labels (100 classes) and coarse ones (20 superclasses). Each file is a pickle by Python 2, read by
ssmlab.data.unpickle, which runs none of it. They are in a folder, a zip, or the .tar.gz of the download, which is
read in memory and never unpacked.

A row is an image of 32 x 32: 1,024 red values, then green, then blue. Ids are "data_batch_1/0", "train/0" and so on,
by file and row. Validation is taken from train.
"""

import gzip
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.contents import Contents, Format, Item, count, some
from ssmlab.data.files import BOMB_BYTES, FolderFiles, ZipFiles, plain_name
from ssmlab.data.images.decode import UnreadableImage
from ssmlab.data.images.medmnist import ArrayPictures
from ssmlab.data.tables import add_groups, tables_in
from ssmlab.data.unpickle import UnreadablePickle, read_pickle

SIDE = 32
PIXELS = 3 * SIDE * SIDE
LABELS = ("fine", "coarse")
MAX_MEMBERS = 10_000


@dataclass(frozen=True)
class _Kind:
    """What the files of one of the two are called, and the entries of their dicts."""

    format: str
    parts: dict[str, str]  # file -> part
    meta: str
    labels: str
    names: str


_BATCHES = {f"data_batch_{n}": "train" for n in range(1, 6)} | {"test_batch": "test"}
_CIFAR10 = _Kind("cifar10", _BATCHES, "batches.meta", "labels", "label_names")
_FILES_10 = {*_CIFAR10.parts, _CIFAR10.meta}
_FILES_100 = {"train", "test", "meta"}


class TarFiles:
    """CIFAR's files in a tar archive, packed or not, held in memory. Links and everything else are passed over."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.problems: list[str] = []
        self.folders: set[str] = set()
        self.members = 0
        self.files: dict[str, bytes] = {}
        try:
            with open(path, "rb") as file:
                packed = file.read(2) == b"\x1f\x8b"
            with (gzip.open if packed else open)(path, "rb") as file:
                self._read_members(_Bounded(file, path))
        except (OSError, EOFError, tarfile.TarError, ValueError, zlib.error) as error:
            if isinstance(error, tarfile.ReadError) and not self.members:
                return  # something else in gzip
            raise DataError(f"{path}: the archive cannot be read ({error}); download it again") from error

    def _read_members(self, file):
        # As a stream: nothing is skipped by its announced size, and `_Bounded` sees every byte
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                name = plain_name(member.name)
                self.members += 1
                if self.members > MAX_MEMBERS:
                    raise DataError(f"{self.path}: more than {MAX_MEMBERS:,} files; no archive of CIFAR has so many")
                wanted = member.isreg() and name.rpartition("/")[2] in _FILES_10 | _FILES_100
                if wanted and (content := archive.extractfile(member)) is not None:
                    self.files[name] = content.read()

    def read(self, name: str) -> bytes:
        return self.files[name]

    def head(self, name: str, size: int = 16) -> bytes:
        return self.files[name][:size]


class _Bounded:
    """A file that ends in an error after so many bytes."""

    def __init__(self, file, path):
        self.file, self.path, self.left = file, path, BOMB_BYTES

    def read(self, size):
        data = self.file.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise DataError(f"{self.path}: more than {BOMB_BYTES:,} bytes unpacked, no archive of CIFAR has so many")
        return data


def find_cifar(files: FolderFiles | ZipFiles | TarFiles) -> tuple[str, str] | None:
    """(prefix, "cifar10" or "cifar100") of the one folder with CIFAR's files, or None.

    CIFAR-10 is known by the names of its files, CIFAR-100, whose names are plain words, also by their first bytes.

    Raises:
        DataError: several folders have them.
    """
    found = []
    folders: dict[str, set[str]] = {}
    for name in files.files:
        if name.rpartition("/")[2] in _FILES_10 | _FILES_100:
            folders.setdefault(name[: name.rfind("/") + 1], set()).add(name.rpartition("/")[2])
    for prefix, names in folders.items():
        if names & _FILES_10:
            found.append((prefix, "cifar10"))
        elif len(names) >= 2 and all(files.head(prefix + name).startswith(b"\x80") for name in names):
            found.append((prefix, "cifar100"))
    if len(found) > 1:
        raise DataError(
            f"{files.path}: several data sets ({some(p or './' for p, _ in found)}); give the folder of one as the path"
        )
    return found[0] if found else None


def read_cifar(
    files: FolderFiles | ZipFiles | TarFiles, place: tuple[str, str], group: str | None, labels: str = "fine"
) -> Contents:
    """Read every batch; problems: files missing, refused or damaged, rows of another size, labels out of range.

    Args:
        place: what `find_cifar` found.
        labels: "fine" or "coarse", of CIFAR-100.
    """
    prefix, format = place
    kind = _CIFAR10
    if format == "cifar100":
        parts = {"train": "train", "test": "test"}
        kind = _Kind("cifar100", parts, "meta", f"{labels}_labels", f"{labels}_label_names")
    images: dict[str, np.ndarray] = {}
    contents = Contents(
        name=(prefix.rstrip("/").rpartition("/")[2] or files.path.resolve().name).removesuffix(".tar.gz"),
        format=format,
        classes=(),
        items=[],
        load=ArrayPictures(images),
        problems=files.problems,
    )
    meta = _read(files, prefix, kind.meta, contents.problems)
    contents.classes = _class_names(meta, kind, contents.problems)
    for file, part in kind.parts.items():
        batch = _read(files, prefix, file, contents.problems)
        rows = _check_batch(file, batch, kind, contents) if batch is not None else None
        if rows is not None:
            images[file] = batch["data"].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
            contents.items += [
                Item(f"{file}/{i}", contents.classes[label], part, (file, i)) for i, label in enumerate(rows)
            ]
    contents.incomplete = len(images) < len(kind.parts)
    if format == "cifar100" and contents.classes:
        other = next(name for name in LABELS if name != labels)
        contents.notes.append(f"{labels} labels, {len(contents.classes)} classes; labels={other} takes the others")
    announced = (meta or {}).get("num_cases_per_batch")
    short = [f"{file} {len(rows):,}" for file, rows in images.items() if len(rows) != announced]
    if isinstance(announced, int) and short:
        contents.notes.append(f"{kind.meta} announces {count(announced, 'image')} a file: {some(short, most=6)}")
    if group is not None and contents.items:
        folder = files.path if isinstance(files, FolderFiles) else files.path.parent
        contents.items, problems = add_groups(contents.items, group, tables_in(folder), f"in {folder}")
        contents.problems += problems
    return contents


def _read(files, prefix, file, problems):
    if prefix + file not in files.files:
        problems.append(f"{file}: missing in {prefix or files.path}; download the data set again")
        return None
    try:
        return read_pickle(files.read(prefix + file))
    except (UnreadablePickle, UnreadableImage) as error:
        problems.append(f"{file}: {error}; download the data set again")
        return None


def _class_names(meta, kind, problems):
    if meta is None:
        return ()
    names = meta.get(kind.names)
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) and name for name in names):
        problems.append(f"{kind.meta}: no list {kind.names} of names among {_keys(meta)}; download the data set again")
        return ()
    names = tuple(name.decode("latin1") if isinstance(name, bytes) else name for name in names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        problems.append(f"{kind.meta}: two classes are called {twice[0]!r}; download the data set again")
        return ()
    return names


def _check_batch(file, batch, kind, contents):
    """The labels of a batch whose every row can be used, or None."""
    data, labels = batch.get("data"), batch.get(kind.labels)
    problems = []
    if not isinstance(data, np.ndarray):
        problems.append(f"{file}: no array 'data' among {_keys(batch)}")
    elif data.ndim != 2 or data.shape[1] != PIXELS or data.dtype != np.uint8:
        problems.append(f"{file}: data of {data.shape} {data.dtype}; expected (n, {PIXELS}) uint8, 32 x 32 x 3 a row")
    if isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu":
        labels = labels.tolist()
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        problems.append(f"{file}: no list {kind.labels!r} of whole numbers among {_keys(batch)}")
    else:
        if isinstance(data, np.ndarray) and data.ndim and len(labels) != len(data):
            problems.append(f"{file}: {len(labels):,} {kind.labels} for {count(len(data), 'image')}")
        wrong = [i for i, label in enumerate(labels) if not 0 <= label < len(contents.classes)]
        if wrong and contents.classes:
            first = f"{count(len(wrong), 'label')} out of range ({labels[wrong[0]]} in row {wrong[0]})"
            problems.append(f"{file}: {first}; {kind.meta} has the classes 0 to {len(contents.classes) - 1}")
    contents.problems += [f"{problem}; download the data set again" for problem in problems]
    return labels if not problems and contents.classes else None


def _keys(table):
    return some(sorted(table), most=8) or "nothing"


def read(files: FolderFiles | ZipFiles | TarFiles, group: str | None, labels: str) -> Contents | None:
    """The contents of files that are these data sets; None where they are not."""
    place = find_cifar(files)
    return read_cifar(files, place, group, labels) if place else None


FORMAT = Format(read, "CIFAR-10 or CIFAR-100 (python version, unpacked or .tar.gz)", tar=True)
