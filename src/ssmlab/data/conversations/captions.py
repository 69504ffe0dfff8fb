"""Images with captions: tables, a text of lines next to a list of images, texts next to images, COCO's annotations."""

import csv
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

from ssmlab.core.errors import DataError
from ssmlab.data.contents import some
from ssmlab.data.conversations.found import BadRecord, Problem, Row, Rows, make_turns
from ssmlab.data.conversations.record import HUMAN, MARK, MODEL, Turn
from ssmlab.data.files import IMAGE_SUFFIXES
from ssmlab.data.text.encoding import decode_text

QUESTION = "Describe the image briefly."
IMAGES = ("image", "image_name", "file", "file_name", "filename", "path", "img")
CAPTIONS = ("caption", "captions", "text", "sentence", "description", "comment", "raw")
TEXTS = (".txt", ".caption")
LISTS = (".txt", ".lst", ".list")
EXPECTED = (
    "a table with the columns image and caption, a text with as many lines as a list of images next to it, or images "
    "with a text of the same name each"
)
_NUMBER = re.compile(r"#\d+$")  # of Flickr8k.token.txt: several captions of one image


def is_image_name(cell: str) -> bool:
    """Whether a cell names a picture."""
    return _NUMBER.sub("", cell.strip()).lower().endswith(IMAGE_SUFFIXES)


def read_table(path: Path, text_only: bool) -> Rows | None:
    """A CSV or TSV with images and captions, with or without a header; None where the file is no such table.

    Raises:
        DataError: it cannot be read.
    """
    try:
        text = decode_text(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    form = columns(text)
    if form is None:
        return None
    lines, plain = io.StringIO(text), form.separator == "\t"  # no quotes between tabs
    reader = csv.reader(lines, delimiter=form.separator, quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL)
    try:
        cells = [[cell.strip() for cell in row] for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}; mend the row") from None
    width, cells = (len(cells[0]), cells[1:]) if form.caption else (2, cells)
    found = Rows()
    for index, row in enumerate(cells):
        if len(row) != width:
            reason = f"{len(row)} cells, expected {width}; a caption that holds {form.separator!r} needs quotes"
            found.problems.append(Problem(index, row[form.image] if form.image < len(row) else str(index), reason))
            continue
        _add(found, index, _NUMBER.sub("", row[form.image]), row[form.text], text_only)
    return found


class Columns(NamedTuple):
    """The form of a table: its separator, the columns of image and caption, the caption's name in a header or ""."""

    separator: str
    image: int
    text: int
    caption: str = ""


def columns(text: str) -> Columns | None:
    """The form of a table by its first line; None for any other text."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    separator = next((sign for sign in "\t|;," if sign in first), ",")
    header = [cell.strip().strip('"').casefold() for cell in first.split(separator)]
    image = next((header.index(name) for name in IMAGES if name in header), None)
    caption = next((name for name in CAPTIONS if name in header), None)
    if image is not None and caption is not None:
        return Columns(separator, image, header.index(caption), caption)
    return Columns(separator, 0, 1) if len(header) >= 2 and is_image_name(header[0]) else None


def read_lines(path: Path, text_only: bool) -> Rows:
    """Captions by line, whose images a list next to the file names.

    Raises:
        DataError: there is no such list, or there are several.
    """
    captions = _lines(path)
    lists = {}
    for other in sorted(path.parent.iterdir()):
        if other != path and other.suffix.lower() in LISTS and other.is_file():
            names = _lines(other)
            if len(names) == len(captions) and all(map(is_image_name, names)):
                lists[other.name] = names
    same = [name for name in lists if Path(name).stem.split(".")[0] == path.stem.split(".")[0]]
    chosen = same if len(same) == 1 else list(lists)
    if len(chosen) != 1:
        what = f"{len(chosen)} lists of images with as many lines ({some(chosen)})" if chosen else "no list of images"
        raise DataError(f"{path}: {what} next to it; expected {EXPECTED}")
    found = Rows()
    for index, (name, caption) in enumerate(zip(lists[chosen[0]], captions, strict=True)):
        _add(found, index, _NUMBER.sub("", name.strip()), caption, text_only)
    return found


def read_folder(path: Path, text_only: bool) -> Rows | None:
    """Images with a text of the same name each, a caption a line; None where the folder holds none."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    images = {file.with_suffix(""): file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES)}
    texts = {file.with_suffix(""): file for file in files if file.suffix.lower() in TEXTS}
    if not images.keys() & texts.keys():
        return None
    found = Rows(folders=("",))
    index = 0
    for stem, image in images.items():
        name = image.relative_to(path).as_posix()
        if stem not in texts:
            found.problems.append(Problem(index, name, f"no text {stem.name}{TEXTS[0]} next to it"))
            index += 1
            continue
        try:
            captions = [line for line in decode_text(texts[stem].read_bytes()).split("\n") if line.strip()]
        except (OSError, ValueError) as error:
            captions = []
            found.problems.append(Problem(index, name, f"its text cannot be read ({error})"))
            index += 1
            continue
        for caption in captions or [""]:
            _add(found, index, name, caption, text_only)
            index += 1
    return found


def is_coco(values: Any) -> bool:
    """Whether a JSON value is COCO's table of captions."""
    annotations = values.get("annotations") if isinstance(values, dict) else None
    return isinstance(annotations, list) and any(isinstance(row, dict) and "caption" in row for row in annotations[:1])


def read_coco(values: dict[str, Any], text_only: bool) -> Rows:
    """COCO's annotations, a record a caption."""
    found = Rows()
    named = {row.get("id"): row.get("file_name") for row in values.get("images", []) if isinstance(row, dict)}
    for index, row in enumerate(values["annotations"]):
        if not isinstance(row, dict) or not isinstance(row.get("caption"), str):
            found.problems.append(Problem(index, str(index), "no caption"))
        elif not isinstance(name := named.get(row.get("image_id")), str):
            found.problems.append(Problem(index, str(row.get("id", index)), f"no image {row.get('image_id')}"))
        else:
            _add(found, index, name, row["caption"], text_only)
    return found


def _add(found: Rows, index: int, image: str, caption: str, text_only: bool) -> None:
    id = f"{Path(image).stem}-{index}"
    try:
        if not is_image_name(image):
            raise BadRecord(f"{image!r} is no name of an image")
        images = () if text_only else (image,)
        turns = [Turn(HUMAN, f"{MARK}\n{QUESTION}" if images else QUESTION), Turn(MODEL, caption)]
        source = {"image": image, "caption": caption.strip()}
        found.rows.append(Row(index, id, images, make_turns(turns, len(images), True), source))
    except BadRecord as error:
        found.problems.append(Problem(index, id, str(error)))


def _lines(path: Path) -> list[str]:
    try:
        return decode_text(path.read_bytes()).removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
