"""Sources of labelled pictures: tar shards, Parquet, data sets of Hugging Face, and folders."""

import json
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ssmlab.core.errors import DataError, UserError
from ssmlab.data.files import IMAGE_SUFFIXES, MAX_FILE_BYTES

HUB = "hf://datasets/"  # in front of the name of a data set that is read from the hub in a stream
LABELS = ("label", "labels", "class", "cls", "fine_label")  # of columns and of keys in .json; the first that is there
PICTURES = ("image", "img", "jpg", "jpeg", "png", "picture")
FILES = 256  # of a folder that are a shard
ROWS = 1024  # of a data set in memory-mapped files that are a shard


class Labelled(NamedTuple):
    """A picture that is not decoded yet.

    Attributes:
        id: "<shard>:<number>" or a file's name.
        content: a file's bytes, its path, or a function that gives the picture.
        label: the class as the data have it, a name or a number; None where nothing says it.
    """

    id: str
    content: Any
    label: str | int | None


Wanted = Callable[[str], bool]


def everything(id: str) -> bool:
    """Every picture is wanted."""
    return True


class Pictures(Protocol):
    """What the sources share.

    Attributes:
        names: of the shards. classes: names by number, where the data have them, else ().
    """

    names: list[str]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """The number of shards."""
        ...

    def read(self, shard: int, wanted: Wanted | None = everything) -> Iterator[Labelled]:
        """The pictures of a shard; those whose id is not wanted without their content. None: no content is read."""
        ...


class TarShards:
    """Tar files in WebDataset's form: neighbours of one name are an example, `x.jpg` with `x.cls`, a number or a name,
    or `x.json`, which has it under "label"; where there is neither, the last folder of the name is the class.

    Args:
        files: (name, path).
    """

    classes = ()

    def __init__(self, files: list[tuple[str, Path]]):
        self.names, self.paths = [name for name, _ in files], [path for _, path in files]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, shard: int, wanted: Wanted | None = everything) -> Iterator[Labelled]:
        """The pictures of a file, see `Pictures`.

        Raises:
            DataError: it is no tar file, or damaged.
        """
        path, key, found = self.paths[shard], "", dict[str, bytes | None]()
        try:
            with tarfile.open(path, "r:*") as opened:
                for member in opened:
                    opened.members = []  # type: ignore[attr-defined] # which would keep every file that was passed
                    folder, _, file = member.name.rpartition("/")
                    stem, _, suffix = file.lower().partition(".")
                    picture = f".{suffix}".endswith(IMAGE_SUFFIXES)
                    if not member.isreg() or not stem or not (picture or suffix in ("cls", "json")):
                        continue
                    if member.size > MAX_FILE_BYTES:
                        raise DataError(f"{path}/{member.name}: more than {MAX_FILE_BYTES >> 20} MiB")
                    own = f"{folder}/{file[: len(stem)]}".lstrip("/")
                    if own != key:
                        yield from self._example(shard, key, found)
                        key, found = own, {}
                    if not picture or (wanted is not None and wanted(f"{self.names[shard]}/{key}")):
                        found[suffix] = opened.extractfile(member).read()  # type: ignore[union-attr]
                    else:
                        found[suffix] = None
                yield from self._example(shard, key, found)
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            reason = str(error).split("\n")[0].rstrip(":")
            raise DataError(f"{path}: no tar file, or damaged ({reason})") from error

    def _example(self, shard: int, key: str, found: dict[str, bytes | None]) -> Iterator[Labelled]:
        kind = next((kind for kind in found if f".{kind}".endswith(IMAGE_SUFFIXES)), None)
        if kind is None:
            return
        label: str | int | None = key.rpartition("/")[0].rpartition("/")[2] or None
        try:
            if cls := found.get("cls"):
                text = cls.decode("utf-8").strip()
                label = int(text) if text.lstrip("-").isdecimal() else text
            elif values := json.loads(found.get("json") or b"{}"):
                label = next((values[name] for name in LABELS if name in values), label)
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{self.paths[shard]}/{key}: a label that cannot be read ({error})") from error
        yield Labelled(f"{self.names[shard]}/{key}", found[kind], label)


class ParquetShards:
    """Parquet files with a column of pictures (bytes, or a struct with them) and one of labels, as the hub has them; a
    shard is a group of rows.

    Args:
        files: (name, path).
    Raises:
        UserError: pyarrow is not installed.
        DataError: a file is no Parquet, or lacks a column.
    """

    def __init__(self, files: list[tuple[str, Path]]):
        self._parquet = needed("pyarrow.parquet", "parquet")
        self.names, self.groups = [], list[tuple[Path, int]]()
        for name, path in files:
            with self._opened(path) as file:
                schema = file.schema_arrow
                self.picture, self.label = (
                    _column(path, schema.names, names) for names in (PICTURES, LABELS)
                )  # the same in all, or reading says which lacks it
                described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
                features = described.get("info", {}).get("features", {})
                self.classes = tuple(features.get(self.label, {}).get("names", ()))
                self.groups += [(path, group) for group in range(file.num_row_groups)]
                self.names += [name] * file.num_row_groups

    def __len__(self) -> int:
        return len(self.names)

    def read(self, shard: int, wanted: Wanted | None = everything) -> Iterator[Labelled]:
        """The pictures of a group of rows, see `Pictures`."""
        path, group = self.groups[shard]
        columns = [self.label] if wanted is None else [self.label, self.picture]
        with self._opened(path) as file:
            number = 0
            for batch in file.iter_batches(256, row_groups=[group], columns=columns, use_threads=False):
                labels = batch.column(self.label).to_pylist()
                pictures = batch.column(self.picture) if wanted is not None else labels
                for i, label in enumerate(labels):
                    id = f"{self.names[shard]}:{group}:{number}"
                    content = pictures[i].as_py() if wanted is not None and wanted(id) else None
                    content = content.get("bytes") if isinstance(content, dict) else content
                    yield Labelled(id, content, label)
                    number += 1

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Any]:
        with told(path, "no Parquet, or damaged"), self._parquet.ParquetFile(path, memory_map=True) as file:
            yield file


class HuggingFace:
    """A part of a data set of Hugging Face's `datasets`: one on disk, or one that is read from the hub in a stream.

    Args:
        part: a `Dataset`, of which a shard is `ROWS` rows, or an `IterableDataset`, which has its own shards.
        name: in front of ids.
    """

    def __init__(self, part: Any, name: str):
        columns = list(part.column_names or next(iter(part)))
        self.picture, self.label = (_column(name, columns, names) for names in (PICTURES, LABELS))
        self.classes = tuple(getattr((part.features or {}).get(self.label), "names", None) or ())
        if type((part.features or {}).get(self.picture)).__name__ == "Image":
            part = part.cast_column(self.picture, needed("datasets", "datasets").Image(decode=False))
        self.part, self.fixed = part, hasattr(part, "select")
        count = -(-len(part) // ROWS) if self.fixed else part.num_shards
        self.names = [name] * count

    def __len__(self) -> int:
        return len(self.names)

    def read(self, shard: int, wanted: Wanted | None = everything) -> Iterator[Labelled]:
        """The pictures of a shard, see `Pictures`."""
        with told(self.names[shard], "damaged"):
            yield from self._rows(shard, wanted)

    def _rows(self, shard: int, wanted: Wanted | None) -> Iterator[Labelled]:
        part = self.part.select_columns([self.label]) if wanted is None else self.part
        if self.fixed:
            rows = part.select(range(shard * ROWS, min((shard + 1) * ROWS, len(part))))
        else:
            rows = part.shard(num_shards=len(self), index=shard)
        for number, row in enumerate(rows):
            id = f"{self.names[shard]}:{shard}:{number}"
            content = row[self.picture] if wanted is not None and wanted(id) else None
            if isinstance(content, dict):  # what comes from the hub names no file of this machine
                content = content.get("bytes") or (content.get("path") if self.fixed else None)
            yield Labelled(id, content, row[self.label])


class FolderShards:
    """The part of a folder or an archive that `open_images` has opened; a shard is `FILES` neighbouring pictures.

    Args:
        split: a `Split` of images, whose pictures are read one by one.
        classes: by number.
    """

    def __init__(self, split: Any, classes: Sequence[str]):
        self.split, self.classes = split, tuple(classes)
        self.names = [split.name] * -(-len(split) // FILES)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, shard: int, wanted: Wanted | None = everything) -> Iterator[Labelled]:
        """The pictures of a shard, see `Pictures`; each is opened when it is decoded."""
        for i in range(shard * FILES, min((shard + 1) * FILES, len(self.split))):
            yield Labelled(self.split.ids[i], lambda i=i: self.split.image(i), int(self.split.labels[i]))


@contextmanager
def told(where: Any, what: str) -> Iterator[None]:
    """Whatever pyarrow finds wrong with a file becomes one line with its name."""
    errors = needed("pyarrow", "parquet").ArrowException
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, TypeError, LookupError, errors) as error:
        raise DataError(f"{where}: {what} ({' '.join(str(error).split())})") from error


def needed(module: str, extra: str) -> Any:
    """A library of an extra.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(f"{package} is needed to read these data: pip install 'ssmlab[{extra}]'") from error


def _column(where: Any, columns: Sequence[str], names: tuple[str, ...]) -> str:
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise DataError(f"{where}: no column {' or '.join(names)}, found {', '.join(columns)}; rename one")
    return found
