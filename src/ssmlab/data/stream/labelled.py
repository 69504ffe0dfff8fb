"""Parts and classes of labelled pictures that are read in a stream, counted in one pass over their labels."""

import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.files import IMAGE_SUFFIXES, MAX_FILE_BYTES, FolderFiles
from ssmlab.data.images.decode import UnreadableImage, decode, fit_square, to_rgb
from ssmlab.data.parts import parts_of
from ssmlab.data.splits import TEST_FRACTION
from ssmlab.data.stream.pictures import (
    HUB,
    HuggingFace,
    Labelled,
    ParquetShards,
    Pictures,
    TarShards,
    everything,
    needed,
    told,
)

TARS, PARQUET = (".tar", ".tar.gz", ".tgz"), (".parquet",)
FIRST = 64  # members of a tar file, among which there is a picture
ON_DISK = ("dataset_dict.json", "dataset_info.json")  # in a folder that `datasets` has saved


def is_sharded(path: str) -> bool:
    """Whether these are pictures that only a stream reads: tar files of them, Parquet, a data set of Hugging Face;
    not where other pictures lie next to them, nor CIFAR's archives."""
    if path.startswith(HUB):
        return True
    place = Path(path).expanduser()
    if place.is_file():
        files = {place.name: place}
    elif any((place / name).is_file() for name in ON_DISK):
        return True
    elif place.is_dir():
        listed = FolderFiles(place)
        files = {name: listed.at(name) for name in listed.files}
    else:
        return False
    names = [name for name in files if name.lower().endswith((".tar", *PARQUET))]
    if not names or any(name.lower().endswith(IMAGE_SUFFIXES) for name in files):
        return False
    if not names[0].lower().endswith(".tar"):
        return True
    try:
        with tarfile.open(files[names[0]]) as opened:
            return any(member.name.lower().endswith(IMAGE_SUFFIXES) for member in islice(opened, FIRST))
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        return True  # reading it says what is wrong


def open_shards(path: str) -> dict[str, Pictures]:
    """The parts of sharded pictures as they are published, "train" among them.

    Files belong to the part that their name or folder says: train-000.tar, validation-00000-of-00001.parquet; those
    whose names say nothing are train.

    Raises:
        DataError: there are no shards, of both kinds, or no training part.
        UserError: pyarrow or datasets are needed.
    """
    place = Path(path).expanduser()
    if path.startswith(HUB) or any((place / name).is_file() for name in ON_DISK):
        datasets = needed("datasets", "datasets")
        with told(path, "no data set that `datasets` can open"):
            if path.startswith(HUB):
                opened = datasets.load_dataset(path.removeprefix(HUB), streaming=True)
            else:
                opened = datasets.load_from_disk(str(place))
        found = opened if isinstance(opened, dict) else {"train": opened}
        parts = dict(zip(found, parts_of(found), strict=True))
        return _with_train({part or "train": HuggingFace(found[name], name) for name, part in parts.items()}, path)
    listed = FolderFiles(place) if place.is_dir() else None
    names = list(listed.files) if listed else [place.name]
    kinds = [kind for kind in (TARS, PARQUET) if any(name.lower().endswith(kind) for name in names)]
    if len(kinds) != 1:
        what = "both tar files and Parquet" if kinds else "no tar files and no Parquet"
        raise DataError(f"{path}: {what}; give the folder of one data set")
    names = [name for name in names if name.lower().endswith(kinds[0])]
    by_part: dict[str, list[tuple[str, Path]]] = {}
    for name, part in zip(names, parts_of(names), strict=True):
        by_part.setdefault(part or "train", []).append((name, listed.at(name) if listed else place))
    kind: Any = TarShards if kinds[0] is TARS else ParquetShards
    return _with_train({part: kind(files) for part, files in by_part.items()}, path)


def _with_train(parts: dict[str, Pictures], path: str) -> dict[str, Pictures]:
    if "train" not in parts:
        raise DataError(f"{path}: no training part, found {', '.join(parts)}; name its files train-*")
    return parts


@dataclass(frozen=True, kw_only=True)
class Census:
    """What one pass over the labels of the training part says.

    Args:
        classes: by number.
        counts: pictures of each, held-out ones included.
        held: by part that is missing, "test" before "val", its seed and the largest `share` of what is held out for it.
        by_number: whether labels are numbers of the classes; else they are their names.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    held: dict[str, tuple[int, float]]
    by_number: bool

    def part_of(self, id: str) -> str:
        """The part of a picture of the training shards."""
        return next((part for part, (seed, most) in self.held.items() if share(id, part, seed) <= most), "train")

    def number(self, label: str | int | None, id: str) -> int:
        """The number of a picture's class.

        Raises:
            DataError: it has none, or one that the training part does not have.
        """
        if isinstance(label, int) and self.by_number and 0 <= label < len(self.classes):
            return label
        if label is None or str(label) not in self.classes:
            known = ", ".join(self.classes[:8]) + (" ..." if len(self.classes) > 8 else "")
            raise DataError(f"{id}: its class is {label!r}, which is none of {known}")
        return self.classes.index(str(label))


def share(id: str, part: str, seed: int) -> float:
    """A number from 0 to 1 that decides whether a picture is held out, the same on every machine."""
    return int.from_bytes(blake2b(f"{part}:{seed}:{id}".encode(), digest_size=7).digest()) / 256**7


def count_labels(parts: dict[str, Pictures], most: int, val_fraction: float, seed: int) -> Census:
    """Read all labels of the training part, and choose what is held out for parts that are missing.

    Args:
        most: pictures of a part that is taken from train.
    Raises:
        DataError: pictures without a class, or fewer than two classes.
    """
    train = parts["train"]
    missing = [part for part in ("test", "val") if part not in parts]
    seeds = {"test": 0, "val": seed}
    counted: Counter[str | int | None] = Counter()
    smallest: dict[str, list[tuple[float, float]]] = {part: [] for part in missing}  # shares in its part and in test
    for shard in range(len(train)):
        for picture in train.read(shard, None):
            counted[picture.label] += 1
            if picture.label is None:
                raise DataError(f"{picture.id}: nothing says its class; expected a folder, .cls, .json or a column")
            for part, found in smallest.items():
                found.append((share(picture.id, part, seeds[part]), share(picture.id, "test", seeds["test"])))
        for part, found in smallest.items():
            smallest[part] = sorted(found)[: 2 * most]
    total = sum(counted.values())
    held: dict[str, tuple[int, float]] = {}
    for part, found in smallest.items():
        taken = held.get("test", (0, -1.0))[1]  # those of test are no candidates for val
        shares = [own for own, other in found if part == "test" or other > taken]
        wanted = max(1, min(round((TEST_FRACTION if part == "test" else val_fraction) * total), most))
        if len(shares) < wanted:
            raise DataError(f"too few pictures for three parts, {total:,} in train; give more")
        held[part] = (seeds[part], shares[wanted - 1])
    numbers = all(isinstance(label, int) for label in counted)
    names = train.classes or tuple(
        sorted({str(label) for label in counted}, key=lambda name: (int(name) if numbers else 0, name))
    )
    if len(names) < 2:
        raise DataError(f"only one class, {names[0]!r}; give two, a folder of images for each")
    census = Census(classes=names, counts=(), held=held, by_number=bool(train.classes))
    counts = [0] * len(names)
    for label, n in counted.items():
        counts[census.number(label, train.names[0])] += n
    return replace(census, counts=tuple(counts))


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What `check_shards` found. Problems are raised.

    Attributes:
        classes: by number. shards: of every part. counts: "train" -> pictures. balance: "train" -> class -> pictures.
    """

    name: str
    path: str
    classes: tuple[str, ...]
    shards: dict[str, int]
    counts: dict[str, int]
    balance: dict[str, dict[str, int]]
    notes: list[str]
    format: str = "shards"
    ok: bool = True

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {"task": "classify", **asdict(self), "problems": []}


def check_shards(path: str, val_fraction: float = 0.1, seed: int = 0) -> ShardReport:
    """Read the labels of pictures that are read in a stream; the pictures are decoded when they are trained on.

    Raises:
        DataError: as `open_shards` and `count_labels`.
    """
    parts = open_shards(path)
    census = count_labels(parts, 1, val_fraction, seed)
    taken = [f"{part} is taken from train" for part in census.held]
    return ShardReport(
        name=Path(path).name,
        path=path,
        classes=census.classes,
        shards={part: len(source) for part, source in parts.items()},
        counts={"train": sum(census.counts)},
        balance={"train": dict(zip(census.classes, census.counts, strict=True))},
        notes=["pictures are read in a stream and were not decoded; only their labels were read", *taken],
    )


class Chosen:
    """The pictures of one part among shards, with the numbers of their classes: a source of a `Stream`."""

    def __init__(self, source: Pictures, census: Census, part: str, *, published: bool = False):
        self.source, self.census, self.part, self.published = source, census, part, published

    def __len__(self) -> int:
        return len(self.source)

    def read(self, shard: int) -> Iterator[Labelled]:
        """The pictures of a shard that belong to the part."""
        wanted = everything if self.published else self._belongs
        for picture in self.source.read(shard, wanted):
            if wanted(picture.id):
                yield picture._replace(label=self.census.number(picture.label, picture.id))

    def _belongs(self, id: str) -> bool:
        return self.census.part_of(id) == self.part


def prepared(picture: Labelled, size: int, fit: str) -> tuple[np.ndarray, int, str]:
    """A picture as (size, size, 3) uint8, the number of its class, and its id.

    Raises:
        DataError: it cannot be decoded.
    """
    content: Any = picture.content
    try:
        if callable(content):
            image = content()
        elif isinstance(content, bytes | str):
            image = decode(content if isinstance(content, bytes) else _file(Path(content)))
        elif content is None:
            raise UnreadableImage("it holds no bytes")
        else:
            image = to_rgb(content)
    except UnreadableImage as error:
        raise DataError(f"{picture.id}: cannot be read ({error}); replace it, or take it out of the data") from error
    return np.asarray(fit_square(image, size, fit)), int(picture.label or 0), picture.id


def preparing(size: int, fit: str) -> Callable[[Labelled], tuple[np.ndarray, int, str]]:
    """`prepared` at a size."""
    return partial(prepared, size=size, fit=fit)


def _file(path: Path) -> bytes:
    try:
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            raise UnreadableImage(f"{path} is no file of at most {MAX_FILE_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror}") from error
