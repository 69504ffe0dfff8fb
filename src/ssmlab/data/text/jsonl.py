"""Prompts with responses, or chats, from JSON lines: what a model reads, and what it is to answer."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.contents import some
from ssmlab.data.text.documents import Document, find_files
from ssmlab.data.text.encoding import decode_text

ROLES = ("system", "user", "assistant")
MOST_PROBLEMS = 20
FORM = '{"prompt": "...", "response": "..."} or {"messages": [{"role": "user", "content": "..."}, ...]}'


def read_chats(path: str | Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """(id, messages) of every line, a message being (role, text); the id is "<file>:<line>".

    Raises:
        DataError: with every line that has another form, by file name and number; of a file that begins as something
            else, only that.
    """
    chats, problems = [], []
    wrong: dict[tuple[str, str], list[int]] = {}
    for id, file in find_files(path, "chat", "a .jsonl file"):
        try:
            lines = decode_text(file.read_bytes()).split("\n")
        except (OSError, ValueError) as error:
            problems.append(f"{id}: cannot be read ({error})")
            continue
        first = next(filter(str.strip, lines), "{}")
        try:
            begins = isinstance(json.loads(first), dict)
        except ValueError:
            begins = False
        if not begins:
            raise DataError(
                f"{file}: begins with {first[:20]!r}, which is no JSON object; every line must be one, {FORM}"
            )
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                chats.append((f"{id}:{number}", parse_chat(line)))
            except ValueError as error:
                wrong.setdefault((id, str(error)), []).append(number)
    if problems or wrong:
        for (id, reason), numbers in wrong.items():
            where = f"line {numbers[0]}" if len(numbers) == 1 else f"lines {some(f'{number:,}' for number in numbers)}"
            problems.append(f"{id}, {where}: {reason}")
        left = [f"and {len(problems) - MOST_PROBLEMS:,} more"] if len(problems) > MOST_PROBLEMS else []
        count = sum(map(len, wrong.values()))
        raise DataError(f"{path}: {count:,} lines cannot be used; expected {FORM}", problems[:MOST_PROBLEMS] + left)
    if not chats:
        raise DataError(f"{path}: holds no lines; expected {FORM}")
    return chats


def parse_object(line: str) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        ValueError: it holds something else.
    """
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"an object is expected, got {type(row).__name__}")
    return row


def parse_chat(line: str) -> list[tuple[str, str]]:
    """The messages of a line.

    Raises:
        ValueError: the line has another form, or nothing to learn.
    """
    row = parse_object(line)
    if "messages" in row:
        rows = row["messages"]
        if not isinstance(rows, list) or not all(
            isinstance(message, dict) and {"role", "content"} <= message.keys() for message in rows
        ):
            raise ValueError("messages must be a list of objects with role and content")
        for message in rows:
            if message["role"] not in ROLES:
                raise ValueError(f"role must be one of {', '.join(ROLES)}, got {message['role']!r}")
        messages = [(message["role"], message["content"]) for message in rows]
    elif {"prompt", "response"} <= row.keys():
        messages = [("user", row["prompt"]), ("assistant", row["response"])]
    else:
        raise ValueError(f"has the keys {', '.join(row) or 'of nothing'}; prompt and response, or messages are needed")
    if not all(isinstance(text, str) for _, text in messages):
        raise ValueError("every text must be a string")
    if not any(role == "assistant" and text for role, text in messages):
        raise ValueError("has no answer to learn from")
    return messages


def question_tokens(text: str, template: Mapping[str, str], encode: Callable[[str], list[int]]) -> list[int]:
    """A user's message as `chat_tokens` has it, up to where the answer begins."""
    before, _ = template["assistant"].split("{text}")
    return encode(template["user"].replace("{text}", text)) + encode(before)


def chat_tokens(
    id: str,
    messages: list[tuple[str, str]],
    template: Mapping[str, str],
    encode: Callable[[str], list[int]],
    separator_id: int,
) -> Document:
    """A chat as tokens; those of the answers, and the separator after each, are to be learned.

    Args:
        template: by role the text around a message, with {text} in its place. What an answer's template has in front
            of it is read, not learned.
        separator_id: the token that ends an answer.
    """
    tokens, learned = [], []
    for role, text in messages:
        before, after = template[role].split("{text}")
        pieces = [(before, False), (text + after, True)] if role == "assistant" else [(before + text + after, False)]
        for piece, learn in pieces:
            numbers = encode(piece) + ([separator_id] if learn else [])
            tokens += numbers
            learned += [learn] * len(numbers)
    return Document(id, np.array(tokens, np.int32), np.array(learned, bool))
