"""NLVR: sentences about pictures of boxes with coloured items, true or false, one JSON object a line.

Source: Suhr et al. 2017, "A corpus of natural language for visual reasoning". The pictures of a record differ in the
order of their three boxes; the first one that is there is taken. Of one sentence there are up to four records.
"""

from pathlib import Path
from typing import Any

from ssmlab.data.conversations.found import BadRecord, Problem, Row, Rows, make_turns, records_of
from ssmlab.data.conversations.record import HUMAN, MARK, MODEL, Conversation, Turn

QUESTION = "Is this sentence true or false? {sentence}"
PERMUTATIONS = 6
COLOURS = {"#0099ff": "blue", "yellow": "yellow", "black": "black"}
SHAPES = ("square", "triangle", "circle")
SIZES = {10: "small", 20: "medium", 30: "large"}
LABELS = {"true": "true", "false": "false", True: "true", False: "false"}


def is_nlvr(row: dict[str, Any]) -> bool:
    """Whether an object looks like one of these records."""
    return {"sentence", "label", "identifier"} <= row.keys()


def read_nlvr(values: list[Any], path: Path, images: Path | None, text_only: bool) -> Rows:
    """The records of a list.

    Args:
        path: the file, whose name the pictures' begin with. images: the folder of the pictures' folders.
    """
    found = Rows(folders=("images", "", f"images/{path.stem}"))
    roots = [images] if images is not None else [path.parent / folder for folder in found.folders]
    for index, id, row in records_of(values, found):
        try:
            if not isinstance(row.get("sentence"), str) or not row["sentence"].strip():
                raise BadRecord("no sentence")
            label = row.get("label")
            if not isinstance(label, str | bool) or label not in LABELS:
                raise BadRecord(f"label must be true or false, got {label!r}")
            text = QUESTION.format(sentence=row["sentence"].strip())
            near = f"{row['directory']}/" if row.get("directory") is not None else ""
            names = [f"{near}{path.stem}-{row['identifier']}-{k}.png" for k in range(PERMUTATIONS)]
            there = (name for name in names if any((root / name).is_file() for root in roots))
            named = () if text_only else (next(there, names[0]),)
            turns = [Turn(HUMAN, f"{MARK}\n{text}" if named else text), Turn(MODEL, LABELS[label])]
            found.rows.append(Row(index, id, named, make_turns(turns, len(named), True), row))
        except BadRecord as error:
            found.problems.append(Problem(index, id, str(error)))
    return found


def check_items(row: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The items of every box of a record's picture: type, color, size, x_loc, y_loc.

    Raises:
        BadRecord: the record has none.
    """
    boxes = row.get("structured_rep")
    if not isinstance(boxes, list) or not all(isinstance(items, list) for items in boxes):
        raise BadRecord("no structured_rep, a list of items for every box")
    for item in (item for items in boxes for item in items):
        if not isinstance(item, dict) or not {"type", "color", "size", "x_loc", "y_loc"} <= item.keys():
            raise BadRecord("an item of structured_rep needs type, color, size, x_loc and y_loc")
    return boxes


def colour_of(item: dict[str, Any]) -> str:
    """The name of an item's colour."""
    colour = str(item["color"]).lower()
    return COLOURS.get(colour, colour)


def group_of(conversation: Conversation) -> str:
    """What the records of one sentence share: the identifier without its last number. One group stays in one part."""
    return str(conversation.source.get("identifier", conversation.id)).rpartition("-")[0] or conversation.id
