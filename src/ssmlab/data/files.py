"""The files of a data set, in a folder or in a zip archive, which is read in place and never unpacked."""

import gzip
import io
import os
import stat
import threading
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ssmlab.core.errors import DataError
from ssmlab.data.images.decode import UnreadableImage, Window, decode

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".gif", ".webp"),
    *(".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
MAX_FILE_BYTES = 256 << 20  # one file, decompressed
MAX_FILES = 2_000_000
MAX_VISITS = 16  # of one folder, through links
BOMB_BYTES, BOMB_RATIO = 1 << 30, 100  # an archive of more bytes that compresses better holds no data
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
# What systems, network drives and editors leave among a user's files; names that begin with a dot too
_SYSTEM = frozenset(
    [
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "lost+found", "found.000"),
        *("$recycle.bin", "recycler", "system volume information", "@eadir", "@recycle", "#recycle", "@tmp"),
        *("#snapshot", "@recently-snapshot", "network trash folder", "temporary items"),
    ]
)


class Member:
    """A file of an archive, with what readers need of a path on disk."""

    def __init__(self, files: "ZipFiles", name: str):
        self.files, self.name = files, name

    def __str__(self) -> str:
        return f"{self.files.path}/{self.name}"

    def read_bytes(self) -> bytes:
        try:
            return self.files.read(self.name)
        except UnreadableImage as error:
            raise ValueError(str(error)) from error


class Files(Protocol):
    """What is common to the files of a folder, of an archive and of a generated set: names and their contents."""

    path: Path
    folders: set[str]
    problems: list[str]
    ignored: list[str]

    @property
    def files(self) -> Mapping[str, Any]:
        """The names, with `/` between folders."""
        ...

    def read(self, name: str) -> bytes:
        """The whole content of a file."""
        ...

    def head(self, name: str, size: int = 16) -> bytes:
        """Its first bytes."""
        ...


class FolderFiles:
    """Every visible file below a folder; links to folders are followed, hidden and system files left out.

    Attributes:
        files: name -> path on disk relative to the root. Names are unicode NFC with "/", so that ids and
            hashes agree between operating systems, and sorted, whatever order the file system has.
        folders: names of all folders below the root. problems: folders that cannot be listed, and what is no file.
        ignored: names of the hidden and system files and folders (with a "/") that were passed over.
    """

    def __init__(self, root: Path):
        self.path = Path(root)
        self.files: dict[str, str] = {}
        self.folders: set[str] = set()
        self.problems: list[str] = []
        self._visits: Counter[str] = Counter()
        self.ignored: list[str] = []
        self._scan("", (os.path.realpath(root),))
        self.files = dict(sorted(self.files.items()))
        self.ignored.sort()

    def _scan(self, inside, ancestors):
        try:
            with os.scandir(self.path / inside) as entries:
                found = list(entries)
        except OSError as error:
            problem = f"{self.path / inside}: cannot be listed ({error.strerror}); check its permissions"
            if not inside:
                raise DataError(problem) from error
            self.problems.append(problem)
            return
        for entry in found:
            path = f"{inside}/{entry.name}" if inside else entry.name
            if is_system(entry.name):
                self.ignored.append(plain_name(path) + "/" * entry.is_dir())
                continue
            try:
                folder = entry.is_dir()
                special = not folder and not stat.S_ISREG(entry.stat().st_mode)
            except OSError:  # a link to nothing or to itself counts as a file: whoever reads it reports its name
                folder = special = False
            if folder:
                real = os.path.realpath(entry.path)
                self._visits[real] += 1
                if self._visits[real] > MAX_VISITS:  # each of a few folders linked twice to the next: 2^n ways
                    raise DataError(f"{self.path}: links lead to {real} more than {MAX_VISITS} times; remove some")
                if real not in ancestors:  # a link to a folder above it would never end
                    self.folders.add(plain_name(path))
                    self._scan(path, (*ancestors, real))
            elif special:
                self.problems.append(f"{self.path / path}: is no file but a device or a pipe; remove it")
            else:
                self.files[plain_name(path)] = path
        if len(self.files) > MAX_FILES:
            raise DataError(f"{self.path}: more than {MAX_FILES:,} files; name the folder of one data set")

    def at(self, name: str) -> Path:
        return self.path / self.files[name]

    def read(self, name: str) -> bytes:
        path = self.path / self.files[name]
        try:
            _check_size(path.stat().st_size)
            return path.read_bytes()
        except OSError as error:
            raise UnreadableImage(error.strerror or str(error)) from error

    def head(self, name: str, size: int = 16) -> bytes:
        try:
            with open(self.path / self.files[name], "rb") as file:
                return file.read(size)
        except OSError:
            return b""  # whoever reads it in full reports it


class ZipFiles:
    """Every visible file in a zip archive. Safe to read from threads, after a fork and after pickling."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.problems: list[str] = []
        self._archive()
        infos = self._zip.infolist()
        check_archive(self.path, infos)
        self.files: dict[str, zipfile.ZipInfo] = {}
        self.folders: set[str] = set()
        ignored: set[str] = set()
        for info in infos:
            name = plain_name(info.filename.replace("\\", "/")).rstrip("/")
            steps = name.split("/")
            system = next((n for n, step in enumerate(steps, 1) if is_system(step)), 0)
            if system:
                ignored.add("/".join(steps[:system]) + "/" * (system < len(steps) or info.is_dir()))
                self.folders.update("/".join(steps[:n]) for n in range(1, system))
                continue
            self.folders.update("/".join(steps[:n]) for n in range(1, len(steps) + info.is_dir()))
            if not info.is_dir():
                self.files[name] = info
        self.files = dict(sorted(self.files.items()))
        self.ignored = sorted(ignored)

    def _archive(self):
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.path}: the zip archive cannot be opened ({error}); copy it again") from error
        self._lock, self._process = threading.Lock(), os.getpid()

    def at(self, name: str) -> Member:
        return Member(self, name)

    def read(self, name: str) -> bytes:
        return self._read(name, -1)

    def head(self, name: str, size: int = 16) -> bytes:
        try:
            return self._read(name, size)
        except UnreadableImage:
            return b""

    def _read(self, name, size):
        if self._process != os.getpid():  # a forked worker shares the file position with its parent
            self._archive()
        info = self.files[name]
        _check_size(info.file_size)
        try:
            with self._lock, self._zip.open(info) as file:
                return file.read(size)
        # zipfile raises RuntimeError (encrypted), NotImplementedError, BadZipFile, zlib.error, EOFError ...
        except Exception as error:
            raise UnreadableImage(f"cannot be taken out of the archive: {error}") from error

    def __getstate__(self):
        return {key: self.__dict__[key] for key in ("path", "files", "folders", "problems", "ignored")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._archive()


class Disk:
    """Reads a file by its path, for readers that take names; it lists none."""

    def read(self, name: str) -> bytes:
        """The whole content of a file; UnreadableImage where there is none."""
        try:
            return Path(name).read_bytes()
        except OSError as error:
            raise UnreadableImage(error.strerror or str(error)) from error


class FilePictures:
    """Loads a picture by the name of its file.

    Attributes:
        window: of grey values of more than 8 bits, see `decode`.
    """

    def __init__(self, files: Files):
        self.files = files
        self.window: Window | None = None

    def __call__(self, name: str) -> Image.Image:
        return decode(self.files.read(name), self.window)


def open_files(path: str | Path) -> FolderFiles | ZipFiles | None:
    """What a folder or a .zip holds; None for any other path. Raises DataError."""
    path = Path(path).expanduser()
    if path.is_dir():
        return FolderFiles(path)
    return ZipFiles(path) if path.is_file() and path.suffix.lower() == ".zip" else None


def is_image(files: Files, name: str) -> bool:
    """Whether a file is meant as a picture: by its suffix, or, with another suffix, by its first bytes."""
    if name.lower().endswith(IMAGE_SUFFIXES):
        return True
    head = files.head(name)
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def check_archive(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive that declares absurd sizes, before a byte of it is decompressed."""
    size, packed = sum(info.file_size for info in infos), sum(info.compress_size for info in infos)
    if size > BOMB_BYTES and size > BOMB_RATIO * packed:
        raise DataError(f"{path}: {packed:,} bytes that become {size:,} are no archive of data; it is not opened")
    if len(infos) > MAX_FILES:
        raise DataError(f"{path}: {len(infos):,} files, more than the limit of {MAX_FILES:,}")


def gunzip(content: bytes, least: int) -> bytes:
    """What bytes compressed by gzip hold, unless that is more than `least` and out of proportion.

    Raises:
        ValueError: it is. OSError, EOFError, zlib.error: the bytes are damaged.
    """
    most = max(least, BOMB_RATIO * len(content))
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise ValueError(
            f"{len(content):,} bytes become more than {most:,} when unpacked; unpack it yourself if that is right"
        )
    return found


def _check_size(size):
    if size > MAX_FILE_BYTES:
        raise UnreadableImage(f"{size:,} bytes are more than the limit of {MAX_FILE_BYTES:,} for one file")


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or belongs to a system and not to the data."""
    return name.startswith(".") or name.casefold() in _SYSTEM


def plain_name(name: str) -> str:
    """NFC (macOS stores NFD), with bytes that are no UTF-8 written out: it can be hashed and printed."""
    written_out = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", written_out)
