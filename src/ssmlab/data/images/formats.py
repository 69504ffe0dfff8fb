"""Which format a path has, found from its content, and its contents by the reader of that format."""

from pathlib import Path

from ssmlab.core.errors import DataError
from ssmlab.data.contents import Contents, did_you_mean, some
from ssmlab.data.files import FolderFiles, ZipFiles
from ssmlab.data.images import cifar, imagenet, medmnist, mhist
from ssmlab.data.images.cifar import LABELS, TarFiles
from ssmlab.data.images.folders import read_folders, read_label_table
from ssmlab.data.label_tables import FOLDERS
from ssmlab.data.parts import sort_files

FORMATS = (medmnist.FORMAT, mhist.FORMAT, cifar.FORMAT, imagenet.FORMAT)  # the first that knows the files reads them
ACCEPTED = (
    "class folders (train/<class>/*, test/<class>/*; or <class>/*), one zip of such folders, images next to a table of "
    "labels (.csv with a column of file names and one of classes), "
    f"{''.join(f'{form.accepted}, ' for form in FORMATS if form.accepted)}or the word digits"
)


def read_contents(path: str, group: str | None, labels: str = "fine") -> Contents:
    """Read "digits", a folder, an archive or a table.

    Args:
        labels: of CIFAR-100, "fine" or "coarse"; of a table, the column of the classes; or "folders" or "table",
            whichever counts.
    Raises:
        DataError: it is no data set at all, or one without such labels.
    """
    contents = _read(path, group, labels)
    if contents.format == "cifar100" and labels not in LABELS:
        raise DataError(f"labels={labels!r}: expected {' or '.join(LABELS)}")
    column = contents.format == "label_table" and labels not in LABELS
    if not (labels == LABELS[0] or labels == FOLDERS or column or contents.format == "cifar100"):
        raise DataError(
            f"{path}: labels={labels!r} is for CIFAR-100 or tables of labels, this is {contents.format}; leave it out"
        )
    return contents


def _read(path, group, labels):
    if not path:
        raise DataError(f"no data are named; expected {ACCEPTED}")
    if path == "digits":
        from ssmlab.data.images.digits import read_digits

        return read_digits(group)
    path = Path(path).expanduser()
    if path.is_dir():
        files = FolderFiles(path)
        contents = _read_files(files, group, labels)
        if contents is not None:
            return contents
        read = {}
        for name, real in files.files.items():
            if "/" not in name and _is_archive(files.head(name, 512)):
                read[name] = _read_archive(path / real, group, labels)
        read = {name: contents for name, contents in read.items() if contents is not None}
        if len(read) == 1:
            return next(iter(read.values()))
        if read:
            raise DataError(f"{path}: several data sets ({some(read)}); give one of them as the path")
        found = some(sorted({name.split("/", 1)[0] for name in (*files.files, *files.folders)})) or "nothing"
        raise DataError(f"{path}: no data set in a known format, found {found}; expected {ACCEPTED}")
    if path.is_file():
        contents = _read_archive(path, group, labels)
        if contents is None and path.suffix.lower() == ".csv":
            contents = _read_files(FolderFiles(path.parent), group, labels)
        if contents is None:
            raise DataError(f"{path}: not a data set in a known format; expected {ACCEPTED}")
        return contents
    near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(f"{path}: no such file or folder{did_you_mean(path.name, near)}; expected {ACCEPTED}")


def _read_archive(path, group, labels):
    """Contents of a zip, npz or CIFAR's tar, whichever it is; None where it is none of them."""
    with open(path, "rb") as file:
        head = file.read(512)
    if not _is_archive(head):
        return None
    if head.startswith(b"PK"):
        return _read_files(ZipFiles(path), group, labels)
    found = (form.read(TarFiles(path), group, labels) for form in FORMATS if form.tar)
    return next(filter(None, found), None)


def _is_archive(head):
    return head.startswith((b"PK", b"\x1f\x8b")) or head[257:262] == b"ustar"


def _read_files(files, group, labels):
    for form in FORMATS:
        if (contents := form.read(files, group, labels)) is not None:
            return contents
    found = sort_files(files, "image")
    by_table = read_label_table(files, found, group, "" if labels in LABELS else labels)
    if by_table is not None:
        return by_table
    if any("/" in name for name in (*(e.name for e in (*found.examples, *found.loose)), *found.unread)):
        return read_folders(files, found, group)
    return None
