"""Which format a path has, found from its content, and its contents by the reader of that format."""

from pathlib import Path

from ssmlab.data.contents import Contents, did_you_mean, some
from ssmlab.data.files import FolderFiles, ZipFiles
from ssmlab.data.folders import find_tree, read_folders
from ssmlab.data.medmnist import is_medmnist, read_medmnist
from ssmlab.data.mhist import find_annotations, read_mhist
from ssmlab.errors import DataError

ACCEPTED = (
    "class folders (train/<class>/*, test/<class>/*; or <class>/*), one zip of such folders, "
    "a MedMNIST .npz, MHIST's annotations.csv beside images/, or the word digits"
)


def read_contents(path: str, group: str | None) -> Contents:
    """Read "digits", a folder, an archive or a table. Raises DataError where it is no data set at all."""
    if not path:
        raise DataError(f"no data are named; expected {ACCEPTED}")
    if path == "digits":
        from ssmlab.data.digits import read_digits

        return read_digits(group)
    path = Path(path).expanduser()
    if path.is_dir():
        return _read_folder(path, group)
    if path.is_file():
        contents = _read_archive(path, group)
        if contents is None and path.suffix.lower() == ".csv":
            contents = _read_files(FolderFiles(path.parent), group)
        if contents is None:
            raise DataError(f"{path}: not a data set in a known format; expected {ACCEPTED}")
        return contents
    near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(f"{path}: no such file or folder{did_you_mean(path.name, near)}")


def _read_folder(path, group):
    files = FolderFiles(path)
    contents = _read_files(files, group)
    if contents is not None:
        return contents
    read = {}
    for name, real in files.files.items():
        if "/" not in name and files.head(name).startswith(b"PK"):
            read[name] = _read_archive(path / real, group)
    read = {name: contents for name, contents in read.items() if contents is not None}
    if len(read) == 1:
        return next(iter(read.values()))
    if read:
        raise DataError(f"{path}: several data sets ({some(read)}); give one of them as the path")
    found = some(sorted({name.split("/", 1)[0] for name in (*files.files, *files.folders)})) or "nothing"
    raise DataError(f"{path}: no data set in a known format, found {found}; expected {ACCEPTED}")


def _read_archive(path, group):
    """Contents of a zip or npz, whichever it is; None where it is neither."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return None
    files = ZipFiles(path)
    if is_medmnist(files.files):
        return read_medmnist(path, group)
    return _read_files(files, group)


def _read_files(files, group):
    tables = find_annotations(files)
    if len(tables) > 1:
        raise DataError(f"{files.path}: several tables of annotations ({some(tables)}); keep one of them")
    if tables:
        return read_mhist(files, tables[0], group)
    tree = find_tree(files)
    return read_folders(files, tree, group) if tree else None
