"""What is known of images without looking at them: captions and boxes, from which instruction data are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmlab.core.errors import DataError
from ssmlab.data.contents import count
from ssmlab.data.conversations.found import BadRecord, read_json
from ssmlab.data.conversations.nlvr import SIZES, check_items, colour_of, is_nlvr
from ssmlab.data.conversations.reader import find_conversations

_WIDTH, _HEIGHT, _STEP = 400, 100, 150  # of NLVR's pictures, and from box to box
_KEYS = ("captions", "caption", "instances", "boxes")
Box = tuple[str, tuple[float, float, float, float]]


@dataclass(frozen=True)
class Scene:
    """What is known of an image. boxes: (category, (left, top, right, bottom)), parts of its width and height."""

    id: str
    image: str
    captions: tuple[str, ...]
    boxes: tuple[Box, ...] = ()

    def known(self, boxes: bool = True) -> str:
        """As a text: captions, and below them the boxes."""
        lines = [f"{name}: [{', '.join(f'{value:.3g}' for value in box)}]" for name, box in self.boxes if boxes]
        return "\n".join(self.captions) + ("\n\n" if lines and self.captions else "") + "\n".join(lines)


def check_scenes(scenes: Sequence[Scene]) -> None:
    """Refuse scenes of which nothing is known, and ids that come twice.

    Raises:
        DataError: with all of them.
    """
    seen: set[str] = set()
    problems = []
    for n, scene in enumerate(scenes):
        if not any(caption.strip() for caption in scene.captions) and not scene.boxes:
            problems.append(f"scene {n} ({scene.id}): neither captions nor boxes")
        if scene.id in seen:
            problems.append(f"scene {n} ({scene.id}): its id comes twice")
        seen.add(scene.id)
    if problems or not scenes:
        raise DataError(
            f"{count(len(problems), 'scene')} cannot be used" if scenes else "there are no scenes", problems
        )


def read_scenes(path: str | Path) -> list[Scene]:
    """Scenes of a file: {"id", "image", "captions", "instances": [{"category", "bbox"}]} in a list or a line each
    (LLaVA's caps_boxes_coco2014_val_80.jsonl), NLVR's lines, or any table or folder of captions, an image's together.

    Boxes are parts of width and height, or pixels where the record has width and height.

    Raises:
        DataError: with every record that cannot be used, by its place.
    """
    place = Path(path).expanduser()
    if place.is_file() and place.suffix.lower() in (".json", ".jsonl"):
        values = read_json(place)
        rows = values if isinstance(values, list) else [values]
        if isinstance(rows[0] if rows else None, dict) and (any(key in rows[0] for key in _KEYS) or is_nlvr(rows[0])):
            scenes, problems = [], []
            for n, row in enumerate(rows):
                try:
                    if not isinstance(row, dict):
                        raise BadRecord(str(row) if isinstance(row, BadRecord) else "an object is expected")
                    scenes.append(_nlvr(row, place.stem) if is_nlvr(row) else _scene(row, n))
                except BadRecord as error:
                    problems.append(f"record {n}: {error}")
            if problems:
                raise DataError(f"{place}: {count(len(problems), 'record')} cannot be used", problems)
            check_scenes(scenes)
            return scenes
    found = find_conversations(place, kind="captions", text_only=True)
    if found.problems:
        raise DataError(
            f"{place}: {count(len(found.problems), 'record')} cannot be used", list(map(str, found.problems))
        )
    captions: dict[str, list[str]] = {}
    for record in found.conversations:
        captions.setdefault(record.source["image"], []).append(record.answer)
    return [Scene(Path(image).with_suffix("").as_posix(), image, tuple(texts)) for image, texts in captions.items()]


def _scene(row: dict[str, Any], n: int) -> Scene:
    captions = row.get("captions", row.get("caption", []))
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise BadRecord("captions must be texts")
    image = row.get("image", row.get("file_name"))
    if not isinstance(image, str):
        raise BadRecord("no image")
    boxes = row.get("instances", row.get("boxes", []))
    if not isinstance(boxes, list):
        raise BadRecord("instances must be a list")
    made = tuple(_box(box, row.get("width", 1), row.get("height", 1)) for box in boxes)
    return Scene(str(row.get("id", n)), image, tuple(text.strip() for text in captions if text.strip()), made)


def _box(box: Any, width: float, height: float) -> Box:
    place = box.get("bbox", box.get("box")) if isinstance(box, dict) else None
    name = box.get("category") if isinstance(box, dict) else None
    sides = place if isinstance(place, list) and all(isinstance(value, int | float) for value in place) else []
    if not isinstance(name, str) or len(sides) != 4:
        raise BadRecord('a box is {"category": "cat", "bbox": [left, top, right, bottom]}')
    left, top, right, bottom = (float(value) / side for value, side in zip(sides, (width, height) * 2, strict=True))
    if not (0 <= left <= right <= 1.0001 and 0 <= top <= bottom <= 1.0001):
        raise BadRecord(f"box {place} is not within the image; give left, top, right, bottom as parts of its sides")
    return name, (left, top, right, bottom)


def _nlvr(row: dict[str, Any], stem: str) -> Scene:
    """The items of a record as boxes; its sentence where that is true."""
    boxes = []
    for n, items in enumerate(check_items(row)):
        for item in items:
            left, top, side = n * _STEP + item["x_loc"], item["y_loc"], item["size"]
            place = (left / _WIDTH, top / _HEIGHT, min((left + side) / _WIDTH, 1), min((top + side) / _HEIGHT, 1))
            words = (SIZES.get(side, ""), colour_of(item), item["type"])
            boxes.append((" ".join(filter(None, words)), place))
    true = str(row["label"]).lower() == "true"
    image = f"{row.get('directory', '')}/{stem}-{row['identifier']}-0.png".lstrip("/")
    return Scene(str(row["identifier"]), image, (str(row["sentence"]),) if true else (), tuple(boxes))
