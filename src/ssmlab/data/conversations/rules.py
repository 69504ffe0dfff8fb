"""Questions that follow from the description of NLVR's pictures: fixed forms, answers balanced within each kind.

NLVR's own sentences are hard and few. These show plainly whether a model sees anything: how many, which, is there one.
None depends on the order of the three boxes, in which the pictures of a record differ.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ssmlab.core.errors import DataError
from ssmlab.data.conversations.record import HUMAN, MARK, MODEL, Conversation, Turn

COLOURS = {"Yellow": "yellow", "Black": "black", "#0099ff": "blue"}
SHAPES = ("circle", "square", "triangle")
MOST = 5  # items that are counted; more are not asked for


def rule_questions(records: Sequence[Conversation], seed: int = 0) -> list[Conversation]:
    """Questions about the pictures of NLVR's records, in a fixed order.

    Kinds, in `source["type"]`: exists, yes and no equally often for every pair of colour and shape; count, each number
    from 0 to `MOST` equally often; colour and shape, what occurs most often, each equally often.

    Args:
        records: with `structured_rep` in their source; several of one picture count once.
        seed: of the choice where answers are balanced.
    Raises:
        DataError: the records have no description of their boxes.
    """
    pictures: dict[Any, Conversation] = {}
    for record in records:
        pictures.setdefault(record.images or record.id, record)
    found = []
    for record in pictures.values():
        boxes = record.source.get("structured_rep")
        if not isinstance(boxes, list):
            raise DataError(f"record {record.index} ({record.id}) has no structured_rep; questions=rules is for NLVR's")
        items = [
            (COLOURS.get(item.get("color"), ""), str(item.get("type"))) for box in boxes for item in box
        ]
        found += [(record, *row) for row in _asked(items)]
    exists = _balanced([row for row in found if row[1] == "exists"], lambda row: row[2], seed)
    rest = _balanced([row for row in found if row[1] != "exists"], lambda row: row[1], seed)
    return [
        Conversation(
            i, f"{record.id}-{kind}-{i}", record.images,
            (Turn(HUMAN, f"{MARK}\n{question}" if record.images else question), Turn(MODEL, answer)),
            {"identifier": record.source.get("identifier", record.id), "type": kind},
        )
        for i, (record, kind, question, answer) in enumerate([*exists, *rest])
    ]  # fmt: skip


def _asked(items: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Kind, question and answer of all that can be asked about a picture."""
    pairs, colours = Counter(items), Counter(colour for colour, _ in items)
    shapes = Counter(shape for _, shape in items)
    for colour in COLOURS.values():
        for shape in SHAPES:
            yield "exists", f"Is there a {colour} {shape}?", "yes" if pairs[colour, shape] else "no"
            if pairs[colour, shape] <= MOST:
                yield "count", f"How many {colour} {shape}s are there?", str(pairs[colour, shape])
    for kind, counts, known in (("colour", colours, tuple(COLOURS.values())), ("shape", shapes, SHAPES)):
        first = counts.most_common(2)
        alone = len(first) == 1 or (len(first) == 2 and first[0][1] > first[1][1])
        if first and alone and first[0][0] in known:
            yield kind, f"Which {kind} occurs most often?", first[0][0]


def _balanced(rows: Sequence[tuple], group: Callable[[tuple], str], seed: int) -> list[tuple]:
    """As many rows of every answer within each group, chosen by a hash; groups with one answer alone are left out."""
    found: dict[str, dict[str, list[tuple]]] = {}
    for row in rows:
        found.setdefault(group(row), {}).setdefault(row[3], []).append(row)
    kept = []
    for name, answers in found.items():
        if len(answers) < 2:
            continue
        count = min(map(len, answers.values()))
        for answer, those in answers.items():
            order = sorted(
                those, key=lambda row: hashlib.sha256(f"{seed} {name} {answer} {row[0].id} {row[2]}".encode()).digest()
            )
            kept += order[:count]
    return kept
