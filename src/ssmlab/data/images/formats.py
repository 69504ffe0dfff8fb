"""Which format a path has, found from its content, and its contents by the reader of that format."""

from dataclasses import replace
from pathlib import Path

from ssmlab.core.errors import DataError
from ssmlab.data.contents import Contents, count, did_you_mean, some
from ssmlab.data.files import FilePictures, FolderFiles, ZipFiles
from ssmlab.data.images import cifar, imagenet, medmnist, mhist
from ssmlab.data.images.cifar import LABELS, TarFiles
from ssmlab.data.images.decode import Window
from ssmlab.data.images.dicom import HEADER, NEEDED, SUFFIXES, is_bare_dicom, is_readable, patient_of
from ssmlab.data.images.folders import read_folders, read_label_table
from ssmlab.data.images.volumes import with_slices
from ssmlab.data.label_tables import FOLDERS
from ssmlab.data.masks.volumes import is_volume, require_nibabel
from ssmlab.data.names import MASK_FOLDERS
from ssmlab.data.parts import sort_files

FORMATS = (medmnist.FORMAT, mhist.FORMAT, cifar.FORMAT, imagenet.FORMAT)  # the first that knows the files reads them
ACCEPTED = (
    "class folders (train/<class>/*, test/<class>/*; or <class>/*), one zip of such folders, images next to a table of "
    "labels (.csv with a column of file names and one of classes), "
    f"{''.join(f'{form.accepted}, ' for form in FORMATS if form.accepted)}or the word digits"
)


def read_contents(
    path: str, group: str | None, labels: str = "fine", window: Window | None = None, slices: int = 0
) -> Contents:
    """Read "digits", a folder, an archive or a table.

    Args:
        window, slices: of grey values of more than 8 bits, and of volumes; see `open_images`.
        labels: of CIFAR-100, "fine" or "coarse"; of a table, the column of the classes; or "folders" or "table",
            whichever counts.
    Raises:
        DataError: it is no data set at all, or one without such labels.
    """
    contents = _read(path, group, labels)
    pictures = contents.load
    if isinstance(pictures, FilePictures):
        pictures.window = window
        contents = with_slices(contents, pictures.files, slices, window)
    elif window or slices:
        what = "data.window" if window else "data.slices"
        raise DataError(f"{path}: {what} is for files of pictures and volumes, this is {contents.format}; leave it out")
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
    if not (found.examples or found.loose) and any(is_volume(name) for name in found.unread):
        volumes = sort_files(files, "volume")
        if not any(name.casefold() in MASK_FOLDERS for name in volumes.classes):
            require_nibabel()
            found = volumes
    if not is_readable() and (dicom := _first_dicom(files, found)):
        raise DataError(f"{dicom}: {NEEDED}")
    by_table = read_label_table(files, found, group, "" if labels in LABELS else labels)
    if by_table is not None:
        return _by_patients(files, by_table, group)
    if any("/" in name for name in (*(e.name for e in (*found.examples, *found.loose)), *found.unread)):
        return _by_patients(files, read_folders(files, found, group), group)
    return None


def _first_dicom(files, found):
    return next((e.name for e in (*found.examples, *found.loose) if _is_dicom(files, e.name)), None)


def _is_dicom(files, name):
    return name.lower().endswith(SUFFIXES) or is_bare_dicom(files, name)


def _by_patients(files: FolderFiles | ZipFiles, contents: Contents, group: str | None) -> Contents:
    """DICOM images of one patient, as their headers say, stay on one side of a split that is made here."""
    of = {
        item.id: patient
        for item in contents.items
        if _is_dicom(files, str(item.key)) and (patient := patient_of(files.head(str(item.key), HEADER)))
    }
    parts: dict[str, set[str | None]] = {}
    for item in contents.items:
        if item.id in of:
            parts.setdefault(of[item.id], set()).add(item.part)
    if group is not None or len(parts) == len(of):
        return contents
    several = sum(len(held) > 1 for held in parts.values())
    if several:
        contents.warnings.append(
            f"{count(several, 'patient')} of the DICOM headers in more than one part, which flatters validation or test"
        )
    elif not any(item.group for item in contents.items):
        contents.items = [replace(item, group=of.get(item.id)) for item in contents.items]
        contents.notes.append(
            f"{len(of):,} DICOM images of {count(len(parts), 'patient')} by their headers; those of one stay together"
        )
    return contents
