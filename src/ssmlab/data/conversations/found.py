"""What every reader of conversations hands over, and the rules that all records keep."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssmlab.core.errors import DataError
from ssmlab.data.conversations.record import HUMAN, MARK, MODEL, Turn, without_marks
from ssmlab.data.text.encoding import decode_text

MOST_BYTES = 4 << 30  # of a file of records


class BadRecord(Exception):
    """A record that cannot be used; the text is the reason."""


@dataclass(frozen=True)
class Problem:
    """A record that cannot be used.

    index: its place in the file, from 0.
    """

    index: int
    id: str
    reason: str

    def __str__(self) -> str:
        named = "" if self.id == str(self.index) else f" ({self.id})"
        return f"record {self.index}{named}: {self.reason}"


@dataclass(frozen=True)
class Row:
    """A record whose images are still names."""

    index: int
    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    source: dict[str, Any]


@dataclass
class Rows:
    """What a reader finds in a file. folders: where images may lie, next to it, the first that holds one wins."""

    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    folders: tuple[str, ...] = ("", "images", "Images", "image")


def make_turns(turns: list[Turn], images: int, image_first: bool, answered: bool = True) -> tuple[Turn, ...]:
    """Turns by the rules that all records keep: human and model in turn, no empty text, a mark for every image.

    Without any mark the images stand in front of the first question. A question with one mark gets it in front (LLaVA's
    rule), where `image_first`. The last turn is the model's, or the human's where not `answered`.

    Raises:
        BadRecord: one is broken.
    """
    if not turns:
        raise BadRecord("no messages")
    if turns[0].role != HUMAN:
        raise BadRecord("begins with an answer; a question must come first")
    for n, turn in enumerate(turns):
        if not turn.text.strip():
            raise BadRecord(f"message {n} ({'question' if turn.role == HUMAN else 'answer'}) is empty")
        if turn.text.encode("utf-8", "replace").decode() != turn.text:
            raise BadRecord(f"message {n} holds half of a character (a lone surrogate)")
    for n, turn in enumerate(turns[1:], 1):
        if turn.role == turns[n - 1].role:
            raise BadRecord(f"messages {n - 1} and {n} are both the {turn.role}'s; they must alternate")
    marks = sum(turn.text.count(MARK) for turn in turns)
    if not marks and images:
        turns = [Turn(HUMAN, f"{MARK}\n" * images + turns[0].text), *turns[1:]]
    elif marks != images:
        raise BadRecord(f"{marks} times {MARK} and {images} images; there must be as many")
    if turns[-1].role != (MODEL if answered else HUMAN):
        raise BadRecord("no answer to the last question" if answered else "no question to answer")
    made = []
    for n, turn in enumerate(turns):
        text = turn.text.strip()
        if turn.role == MODEL and MARK in text:
            raise BadRecord(f"message {n} is an answer and holds {MARK}")
        if image_first and text.count(MARK) == 1:
            text = f"{MARK}\n{without_marks(text)}".strip()
        made.append(Turn(turn.role, text))
    return tuple(made)


def read_json(path: Path) -> Any:
    """The value of a JSON file; of one with an object a line the list of them, a BadRecord in place of what is none.

    Raises:
        DataError: the file cannot be read or is damaged, with the place.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path}: more than {MOST_BYTES:,} bytes; divide it")
        text = decode_text(path.read_bytes())
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read ({error})") from None
    if not text.strip():
        raise DataError(f"{path}: is empty")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if path.suffix.lower() != ".jsonl" and not (_object(lines[0]) is not None and len(lines) > 1):
            place = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "too deep"
            raise DataError(f"{path}: no JSON, or cut off ({place}); write it again") from None
        values = [_object(line) for line in lines]
        return [BadRecord("not a JSON object") if value is None else value for value in values]


def records_of(values: list[Any], found: Rows) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Index, id and content of the records in a list; what is none becomes a problem."""
    for index, row in enumerate(values):
        if not isinstance(row, dict):
            reason = str(row) if isinstance(row, BadRecord) else f"an object is expected, got {type(row).__name__}"
            found.problems.append(Problem(index, str(index), reason))
            continue
        id = next((row[key] for key in ("id", "question_id", "identifier") if row.get(key) is not None), index)
        if isinstance(id, bool) or not isinstance(id, str | int):
            found.problems.append(Problem(index, str(index), f"id must be a text or a number, got {type(id).__name__}"))
            continue
        yield index, str(id), row


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
