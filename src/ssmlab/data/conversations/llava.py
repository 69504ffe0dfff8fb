"""LLaVA's records: {"id", "image", "conversations": [{"from": "human" | "gpt", "value"}]}, in a list or a line each.

Read as well: `messages` with role and content; `images`, or a list in `image`; {"instruction", "output"}; ids that are
numbers.
"""

from typing import Any

from ssmlab.data.conversations.found import BadRecord, Problem, Row, Rows, make_turns, records_of
from ssmlab.data.conversations.record import HUMAN, MODEL, Turn, without_marks

ROLES = {"human": HUMAN, "user": HUMAN, "gpt": MODEL, "assistant": MODEL, "model": MODEL}
LISTS = ("conversations", "messages")
PAIRS = (("instruction", "output"), ("question", "answer"), ("prompt", "response"))
QUESTIONS = ("text", *(question for question, _ in PAIRS))
FORM = '{"image": "a.jpg", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}'


def is_llava(row: dict[str, Any]) -> bool:
    """Whether an object looks like one of these records."""
    return any(key in row for key in LISTS) or any({*pair} <= row.keys() for pair in PAIRS) or "image" in row


def read_llava(values: list[Any], image_first: bool, text_only: bool, answered: bool = True) -> Rows:
    """The records of a list.

    Args:
        answered: False takes questions, alone or after earlier answers; what follows the last question is left out.
    """
    found = Rows()
    for index, id, row in records_of(values, found):
        try:
            named = row.get("image") if row.get("image") is not None else row.get("images")
            images = [] if named is None else [named] if isinstance(named, str) else named
            if not isinstance(images, list) or not all(isinstance(name, str) and name.strip() for name in images):
                raise BadRecord("image must be the name of a file, or a list of names")
            made = make_turns(_turns(row, answered), len(images), image_first, answered)
            if text_only:
                made = tuple(Turn(turn.role, without_marks(turn.text)) for turn in made)
            found.rows.append(Row(index, id, () if text_only else tuple(images), made, row))
        except BadRecord as error:
            found.problems.append(Problem(index, id, str(error)))
    return found


def _turns(row: dict[str, Any], answered: bool) -> list[Turn]:
    rows = next((row[key] for key in LISTS if key in row), None)
    if rows is None:
        pair = next((pair for pair in PAIRS if {*pair} <= row.keys()), None)
        question = pair[0] if pair else next((key for key in QUESTIONS if key in row), None)
        if question is None or (answered and pair is None):
            missing = "question" if question is None else "answer"
            raise BadRecord(f"no {missing} (the record has {', '.join(row) or 'nothing'})")
        rows = [{"from": HUMAN, "value": row[question]}]
        rows += [{"from": MODEL, "value": row[pair[1]]}] if pair else []
    if not isinstance(rows, list):
        raise BadRecord("conversations must be a list of messages")
    turns = []
    for n, message in enumerate(rows):
        if not isinstance(message, dict):
            raise BadRecord(f"message {n} must be an object with from and value, got {type(message).__name__}")
        role, text = (message.get(one, message.get(other)) for one, other in (("from", "role"), ("value", "content")))
        if not isinstance(role, str) or role not in ROLES:
            raise BadRecord(f"message {n} is from {role!r}; expected human or gpt")
        if not isinstance(text, str):
            raise BadRecord(f"message {n} has no text")
        turns.append(Turn(ROLES[role], text))
    if not answered and turns and turns[-1].role == MODEL:
        turns.pop()
    return turns
