"""Questions about NLVR's pictures that a rule makes and answers: how many, which colour, is there a ...

Within every type all answers come equally often, and so they do within every wording of a question: whoever reads the
question alone is right no more often than the type's majority, one by the number of answers. A sentence's pictures stay
in one part.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ssmlab.core.errors import DataError
from ssmlab.data.conversations.found import BadRecord
from ssmlab.data.conversations.nlvr import COLOURS, SHAPES, SIZES, check_items, colour_of, group_of
from ssmlab.data.conversations.record import HUMAN, MARK, MODEL, Conversation, Turn

BOXES = ("left", "middle", "right")
TYPES = ("how many", "which colour", "is there")
PARTS = ("train", "test")
_MOST_COUNT = 6
Items = list[dict[str, Any]]
Asked = tuple[str, Callable[[Items], str | None]]  # wording, and the answer; None: not to be asked of this picture


@dataclass(frozen=True)
class RuleQuestions:
    """Questions of one part.

    conversations: one question each; `source` has type and answer.
    majority: type -> (questions, share of the most frequent answer).
    """

    conversations: list[Conversation]
    majority: dict[str, tuple[int, float]]


def rule_questions(
    records: Sequence[Conversation], part: str, *, test_share: float = 0.3, seed: int = 0
) -> RuleQuestions:
    """Questions about the pictures of one part of NLVR's records.

    Args:
        records: of `read_conversations`. part: train or test; a sentence's group is in the test part by a hash of its
            number. test_share: of the groups.
        seed: of which of the possible questions are taken where answers have to be made even.
    Raises:
        DataError: a record has no items, or a part has no picture.
    """
    if part not in PARTS:
        raise DataError(f"no part {part!r} of rule-made questions; there are {', '.join(PARTS)}")
    try:
        items = [_items(record) for record in records]
    except BadRecord as error:
        raise DataError(f"a record of {len(records):,} cannot be asked about: {error}") from None
    own = set()
    for n, record in enumerate(records):  # a number from 0 to 1 that the group's name alone decides
        place = int.from_bytes(hashlib.sha256(group_of(record).encode()).digest()[:8], "big") / 2**64
        if (place < test_share) == (part == "test"):
            own.add(n)
    if not own:
        raise DataError(f"no picture is in the part {part} of {len(records):,}; change the share of the test part")
    made = []
    for kind, wordings in _wordings().items():
        table: dict[str, dict[str, list[int]]] = {}  # wording -> answer -> pictures
        for text, answer_of in wordings:
            found = table.setdefault(text, {})
            for n, picture in enumerate(items):
                if (said := answer_of(picture)) is not None:
                    found.setdefault(said, []).append(n)
        answers = _answers(table)  # of all pictures, so that both parts have the same
        draw = random.Random(f"{seed} {part} {kind}")
        for text, found in sorted(table.items()):
            pictures = {answer: [n for n in found.get(answer, ()) if n in own] for answer in answers}
            n = min(map(len, pictures.values()), default=0)
            for answer in answers if n else ():
                made += [(records[i], kind, text, answer) for i in draw.sample(pictures[answer], n)]
    order = {record.index: n for n, record in enumerate(records)}
    made.sort(key=lambda one: (order[one[0].index], TYPES.index(one[1]), one[2]))
    conversations = [
        Conversation(
            n,
            f"{record.id}-q{n}",
            record.images,
            (Turn(HUMAN, f"{MARK}\n{text}" if record.images else text), Turn(MODEL, answer)),
            {"type": kind, "answer": answer, "question": text, "identifier": record.source.get("identifier")},
        )
        for n, (record, kind, text, answer) in enumerate(made)
    ]
    return RuleQuestions(conversations, majorities(conversations))


def majorities(conversations: Sequence[Conversation]) -> dict[str, tuple[int, float]]:
    """Type -> (questions, share of the most frequent answer)."""
    counts = {kind: Counter(c.answer for c in conversations if c.source["type"] == kind) for kind in TYPES}
    return {kind: (n.total(), max(n.values()) / n.total()) for kind, n in counts.items() if n}


def as_records(conversations: Sequence[Conversation], images: Path) -> list[dict[str, Any]]:
    """Conversations as LLaVA's records, images relative to their folder."""
    roles = {HUMAN: "human", MODEL: "gpt"}
    rows = []
    for one in conversations:
        names = [path.relative_to(images).as_posix() for path in one.images]
        image = {"image": names[0] if len(names) == 1 else names} if names else {}
        messages = [{"from": roles[turn.role], "value": turn.text} for turn in one.turns]
        rows.append({"id": one.id, **image, "conversations": messages, "type": one.source["type"]})
    return rows


def _items(record: Conversation) -> Items:
    """The items of a picture, each with its box; only the first picture of a record has the boxes in their order."""
    ordered = not record.images or record.images[0].stem.endswith("-0")
    boxes = check_items(record.source)
    return [
        item | {"box": BOXES[n] if ordered and n < len(BOXES) else None} for n, box in enumerate(boxes) for item in box
    ]


def _wordings() -> dict[str, list[Asked]]:
    """Every question that can be asked, by type."""
    colours = list(COLOURS.values())

    def number(items: Items, colour: str, shape: str) -> int:
        """Items of a colour and a shape; "" is any."""
        return sum(colour in ("", colour_of(item)) and shape in ("", item["type"]) for item in items)

    def count(colour: str, shape: str) -> Callable[[Items], str | None]:
        def answer(items: Items) -> str | None:
            n = number(items, colour, shape)
            return str(n) if n <= _MOST_COUNT else None

        return answer

    def exists(colour: str, shape: str) -> Callable[[Items], str | None]:
        def answer(items: Items) -> str | None:
            return "yes" if number(items, colour, shape) else "no"

        return answer

    def shared(**of: Any) -> Callable[[Items], str | None]:
        """The colour of all items of a shape and perhaps a size or a box, where they have one."""

        def answer(items: Items) -> str | None:
            found = {colour_of(item) for item in items if all(item[name] == value for name, value in of.items())}
            return found.pop() if len(found) == 1 else None

        return answer

    def commonest(items: Items) -> str | None:
        (first, n), *others = Counter(map(colour_of, items)).most_common() or [("", 0)]
        return first if n and (not others or others[0][1] < n) else None

    def missing(items: Items) -> str | None:
        left = set(colours) - set(map(colour_of, items))
        return left.pop() if len(left) == 1 else None

    many: list[Asked] = [(f"How many {shape}s are there?", count("", shape)) for shape in SHAPES]
    many += [(f"How many {colour} items are there?", count(colour, "")) for colour in colours]
    there: list[Asked] = []
    for colour, shape in product(colours, SHAPES):
        many.append((f"How many {colour} {shape}s are there?", count(colour, shape)))
        there.append((f"Is there a {colour} {shape}?", exists(colour, shape)))
    which: list[Asked] = [(f"Which colour are the {shape}s?", shared(type=shape)) for shape in SHAPES]
    for shape in SHAPES:
        which += [(f"Which colour are the {name} {shape}s?", shared(type=shape, size=n)) for n, name in SIZES.items()]
        which += [(f"Which colour are the {shape}s in the {box} box?", shared(type=shape, box=box)) for box in BOXES]
    which += [("Which colour do most items have?", commonest), ("Which colour is missing?", missing)]
    return {"how many": many, "which colour": which, "is there": there}


def _answers(table: dict[str, dict[str, list[int]]]) -> list[str]:
    """The answers of one type that are asked for: as many of the most frequent ones as keep most questions, where every
    wording has equally many of each."""
    total = Counter[str]()
    for found in table.values():
        total.update({answer: len(pictures) for answer, pictures in found.items()})
    ranked = sorted(total, key=lambda answer: (-total[answer], answer))

    def kept(k: int) -> int:
        return k * sum(min(len(found.get(answer, ())) for answer in ranked[:k]) for found in table.values())

    return sorted(ranked[: max(range(2, len(ranked) + 1), key=kept, default=0)])
