"""Conversations about images in the formats people have; what each record lacks is found before anything is trained.

llava       a list of records or a record a line (LLaVA's, ShareGPT's, instruction and output)
captions    a table, a text next to a list of images, a folder of images with texts, COCO's annotations
nlvr        NLVR's JSON lines
scienceqa   ScienceQA's problems.json
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ssmlab.core.errors import DataError
from ssmlab.core.text import did_you_mean
from ssmlab.data.contents import count, some
from ssmlab.data.conversations import captions
from ssmlab.data.conversations.found import Problem, Rows, read_json
from ssmlab.data.conversations.llava import FORM, is_llava, read_llava
from ssmlab.data.conversations.nlvr import is_nlvr, read_nlvr
from ssmlab.data.conversations.record import Conversation
from ssmlab.data.conversations.scienceqa import PARTS, is_scienceqa, read_scienceqa
from ssmlab.data.files import MAX_FILE_BYTES
from ssmlab.data.images.decode import Progress, UnreadableImage, decode, for_each_image
from ssmlab.data.text.encoding import head_of_text

KINDS = ("llava", "captions", "nlvr", "scienceqa")
JSON = (".json", ".jsonl")
TABLES = (".csv", ".tsv", ".txt", ".token")
EXPECTED = f"records as {FORM}, NLVR's or ScienceQA's JSON, or {captions.EXPECTED}"
_HEAD = 1 << 16
# what one of the first records has; chats and questions without images are for language models
_KEYS = (
    ("conversations",),
    ("sentence", "identifier", "label"),
    ("question", "choices", "solution"),
    ("image", "instruction"),
    ("image", "messages"),
    ("images", "messages"),
    ("image", "question"),
    ("image_id", "caption"),
)


@dataclass(frozen=True)
class Found:
    """What `find_conversations` found.

    kind: of `KINDS`. path: the file, or the folder, that was read. images: the folder of the images.
    conversations: the records that can be used. problems: of all others, why not, in their order.
    looked: of every image that could be read (name, size, Pillow's mode, frames).
    """

    kind: str
    path: Path
    images: Path
    conversations: list[Conversation]
    problems: list[Problem]
    looked: list[tuple[str, tuple[int, int], str, int]]


def read_conversations(
    path: str | Path,
    images: str | Path | None = None,
    *,
    kind: str | None = None,
    part: str | None = None,
    text_only: bool = False,
    image_first: bool = True,
    decoded: bool = True,
    progress: Progress | None = None,
) -> list[Conversation]:
    """The records of a file or a folder, all of which can be used. The arguments are those of `find_conversations`.

    Raises:
        DataError: with every record that cannot be used, by its place in the file and with the reason.
    """
    found = find_conversations(
        path, images, kind=kind, part=part, text_only=text_only, image_first=image_first, decoded=decoded,
        progress=progress,
    )  # fmt: skip
    return usable(Path(path), found)


def read_questions(
    path: str | Path, images: str | Path | None = None, *, image_first: bool = True, decoded: bool = True
) -> list[Conversation]:
    """Questions for a model to answer: records of the kind llava whose last turn is the human's.

    LLaVA's {"question_id", "image", "text"}, or training records, of which the last answer is left out (it stays in
    `source`).

    Raises:
        DataError: with every record that cannot be used.
    """
    place, folder = Path(path).expanduser(), None if images is None else Path(images).expanduser()
    if not place.is_file() or place.suffix.lower() not in JSON:
        raise DataError(f"{place}: expected a .json or .jsonl with questions about images")
    if folder is not None and not folder.is_dir():
        raise DataError(f"the folder of the images {folder} is not there")
    values = read_json(place)
    rows = read_llava(values if isinstance(values, list) else [values], image_first, False, answered=False)
    return usable(place, _found("llava", place, folder, rows, decoded, None))


def find_conversations(
    path: str | Path,
    images: str | Path | None = None,
    *,
    kind: str | None = None,
    part: str | None = None,
    text_only: bool = False,
    image_first: bool = True,
    decoded: bool = True,
    progress: Progress | None = None,
) -> Found:
    """The records of a file or a folder, and which cannot be used.

    Args:
        images: the folder of the images; None looks next to the file, and in images/ there.
        kind: of `KINDS`; None finds it from the content.
        part: of ScienceQA's problems train, val or test; None takes all.
        text_only: leave the images out; the texts stay.
        image_first: a question with one image has it in front, whatever the record says, as LLaVA trains.
        decoded: decode every image, so that a truncated one is found; False looks whether it is there.
        progress: called as progress(done, total) while images are decoded.
    Raises:
        DataError: there is nothing of that kind, or a file is damaged as a whole.
    """
    place, folder = Path(path).expanduser(), None if images is None else Path(images).expanduser()
    if kind is not None and kind not in KINDS:
        raise DataError(f"no kind {kind!r} of conversations{did_you_mean(kind, KINDS)}; there are {', '.join(KINDS)}")
    if part is not None and part not in PARTS:
        raise DataError(f"no part {part!r}; there are {', '.join(PARTS)}")
    if not place.exists():
        near = os.listdir(place.parent) if place.parent.is_dir() else []
        raise DataError(f"{place}: no such file or folder{did_you_mean(place.name, near)}")
    if folder is not None and not folder.is_dir():
        raise DataError(f"the folder of the images {folder} is not there")
    chosen = _file_in(place, kind) if place.is_dir() else place
    kind, rows = _read(chosen, folder, kind, part, text_only, image_first)
    if part is not None and kind != "scienceqa":
        raise DataError(f"{place}: has no parts; they are of ScienceQA's problems alone")
    if not rows.rows and not rows.problems:
        raise DataError(f"{place}: holds no records{f' of part {part}' if part else ''}; expected {EXPECTED}")
    return _found(kind, chosen, folder, rows, decoded, progress)


def listed(found: Found) -> list[str]:
    """Every problem in a line; records with the same reason share one, with all their numbers."""
    same: dict[str, list[Problem]] = {}
    for problem in found.problems:
        same.setdefault(problem.reason, []).append(problem)
    lines = []
    for reason, group in same.items():
        places = ", ".join(str(problem.index) for problem in group)
        lines.append(str(group[0]) if len(group) == 1 else f"records {places}: {reason}")
    return lines


def open_image(path: Path) -> Image.Image:
    """A picture as RGB, by the rule of all readers (EXIF, alpha, 16 bits, palettes).

    Raises:
        UnreadableImage: it cannot be read, is truncated, or larger than allowed.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UnreadableImage(f"more than {MAX_FILE_BYTES:,} bytes")
        return decode(path.read_bytes())
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from error


def is_conversations(path: Path) -> bool:
    """Whether a file clearly holds conversations about images, by its first bytes; a table by a column of captions."""
    if not path.is_file() or not path.name.lower().endswith((*JSON, *TABLES)):
        return False
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    text = head_of_text(head).lstrip()
    if text[:1] not in ("[", "{"):
        form = captions.columns(text)
        return form is not None and form.caption.startswith("caption")
    return any(all(f'"{key}"' in text for key in keys) for keys in _KEYS)


def _file_in(folder: Path, kind: str | None) -> Path:
    """The file of a folder that holds the records, or the folder where they are texts next to images."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and len(file.relative_to(folder).parts) < 4]
    meant = [file for file in files if file.suffix.lower() in JSON and is_conversations(file)]
    if kind == "captions" or not meant:
        meant = [file for file in files if file.suffix.lower() in TABLES and is_conversations(file)] or meant
    if len(meant) > 1:
        raise DataError(f"{folder}: {some([file.name for file in meant], 8)} hold conversations; name the file")
    return meant[0] if meant else folder


def _read(
    path: Path, images: Path | None, kind: str | None, part: str | None, text_only: bool, image_first: bool
) -> tuple[str, Rows]:
    """Kind and records of a file, or of a folder of images with texts."""
    if path.is_dir():
        found = captions.read_folder(path, text_only) if kind in (None, "captions") else None
        if found is None:
            raise DataError(f"{path}: no conversations about images in it; expected {EXPECTED}")
        return "captions", found
    if path.suffix.lower() not in JSON:
        if kind not in (None, "captions"):
            raise DataError(f"{path}: is no JSON, as {kind} needs; expected {EXPECTED}")
        table = captions.read_table(path, text_only)
        return "captions", table if table is not None else captions.read_lines(path, text_only)
    values = read_json(path)
    whole: dict[str, tuple[Callable[[Any], bool], Callable[[], Rows]]] = {
        "scienceqa": (is_scienceqa, lambda: read_scienceqa(values, part, text_only)),
        "captions": (captions.is_coco, lambda: captions.read_coco(values, text_only)),
    }
    for name, (fits, read) in whole.items():
        if kind in (None, name) and fits(values):
            return name, read()
    rows = values if isinstance(values, list) else [values]
    first = next((row for row in rows if isinstance(row, dict)), {})
    if kind in (None, "nlvr") and is_nlvr(first):
        return "nlvr", read_nlvr(rows, path, images, text_only)
    if kind == "llava" or (kind is None and is_llava(first)):
        return "llava", read_llava(rows, image_first, text_only)
    keys = f"an object with {some(first, 8)}" if first else f"{type(values).__name__} without objects"
    raise DataError(
        f"{path}: begins with {keys}; expected {EXPECTED if kind is None else kind + chr(39) + 's records'}"
    )


def usable(path: str | Path, found: Found) -> list[Conversation]:
    """The records of what was found, all of them.

    Raises:
        DataError: some cannot be used, with every one of them.
    """
    if found.problems:
        total = len(found.conversations) + len(found.problems)
        raise DataError(f"{path}: {len(found.problems):,} of {count(total, 'record')} cannot be used", listed(found))
    return found.conversations


def _found(kind: str, path: Path, images: Path | None, rows: Rows, decoded: bool, progress: Progress | None) -> Found:
    """Records with the paths of their images, and those whose images cannot be used among the problems."""
    root = images
    if root is None:  # the folder next to the records in which most of the first images lie
        near, names = path if path.is_dir() else path.parent, [row.images[0] for row in rows.rows if row.images][:20]
        held = {place: sum((near / place / name).is_file() for name in names) for place in rows.folders}
        root = near / max(held, key=lambda place: held[place])
    paths = _paths(root, rows)
    looked = _decode(rows, paths, progress) if decoded else []
    bad = {problem.index for problem in rows.problems}
    good = [
        Conversation(row.index, row.id, tuple(paths[name] for name in row.images), row.turns, row.source)
        for row in rows.rows
        if row.index not in bad
    ]
    problems = sorted(rows.problems, key=lambda problem: problem.index)
    return Found(kind, path, root, good, problems, looked)


def _paths(root: Path, rows: Rows) -> dict[str, Path]:
    """Name -> path of every image that is there; what is not becomes a problem of its records."""
    reasons: dict[str, str] = {}
    paths: dict[str, Path] = {}
    inside = os.path.abspath(root)
    for name in dict.fromkeys(name for row in rows.rows for name in row.images):
        path = os.path.abspath(os.path.join(inside, name))
        if "\0" in name or "://" in name:
            reasons[name] = f"image {name!r} is no file; images are files of a folder"
        elif os.path.commonpath([inside, path]) != inside:
            reasons[name] = f"image {name} leaves the folder {root}"
        elif os.path.isdir(path):
            reasons[name] = f"image {name} is a folder"
        elif not os.path.isfile(path):
            reasons[name] = f"image {name} is missing in {root}"
        else:
            paths[name] = Path(path)
    _refuse(rows, reasons)
    return paths


def _decode(
    rows: Rows, paths: dict[str, Path], progress: Progress | None
) -> list[tuple[str, tuple[int, int], str, int]]:
    """Decode all images once; those that cannot be read become problems of their records."""
    names = list(paths)
    looked: list[tuple[str, tuple[int, int], str, int] | None] = [None] * len(names)

    def visit(n: int, image: Image.Image) -> None:
        looked[n] = (names[n], image.size, image.info["mode"], image.info.get("frames", 1))

    failures = for_each_image(open_image, list(paths.values()), visit, progress)
    _refuse(rows, {names[n]: f"image {names[n]} cannot be read: {reason}" for n, reason in failures})
    return [one for one in looked if one is not None]


def _refuse(rows: Rows, reasons: dict[str, str]) -> None:
    """Make a problem of every record with an image that has a reason."""
    known = {problem.index for problem in rows.problems}
    for row in rows.rows:
        bad = next((reasons[name] for name in row.images if name in reasons), None)
        if bad is not None and row.index not in known:
            rows.problems.append(Problem(row.index, row.id, bad))
