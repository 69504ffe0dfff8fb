"""Prompts of a batch: a text a line, or JSON lines whose own keys go into the results. torch is not imported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmlab.core.errors import DataError, UserError
from ssmlab.data.text.encoding import decode_text
from ssmlab.data.text.jsonl import parse_object
from ssmlab.generation.sampling import GenerateOptions

if TYPE_CHECKING:
    from ssmlab.generation.generate import Generated
    from ssmlab.generation.prompt_state import PromptState
    from ssmlab.tasks.language.chat import Chat
    from ssmlab.tasks.language.options import WritingOptions

KEYS = ("prompt", "text", "messages")
RESULTS = ("text", "reason", "tokens", "score", "sample", "logprobs")
FORM = '{"prompt": "..."}, {"text": "..."} or {"messages": [{"role": "user", "content": "..."}, ...]}'
MOST_PROBLEMS = 20


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a model is to continue: a text, or messages as (role, text).

    own: the line's own keys, which come back with the result.
    """

    text: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    own: dict[str, Any] = field(default_factory=dict)


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file: JSON lines where the first line is an object with one of `KEYS`, else a text a line.

    Blank lines are left out.

    Raises:
        UserError: there is no such file, or nothing in it. DataError: lines of another form, all by number.
    """
    lines = [(i, line) for i, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path} has no prompts; put one on every line")
    try:
        first = json.loads(lines[0][1])
    except ValueError:
        first = None
    if path.suffix != ".jsonl" and not (isinstance(first, dict) and set(KEYS) & first.keys()):
        return [Prompt(text=line, own={"prompt": line}) for _, line in lines]
    prompts, problems = [], []
    for number, line in lines:
        try:
            prompts.append(parse_prompt(line))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = len(problems) - MOST_PROBLEMS
        problems[MOST_PROBLEMS:] = [f"and {more:,} more"] if more > 0 else []
        raise DataError(f"{path}: lines cannot be used; expected {FORM}", problems)
    return prompts


def parse_prompt(line: str) -> Prompt:
    """The prompt of a line of JSON.

    Raises:
        ValueError: it has another form, or a key that a result has.
    """
    row = parse_object(line)
    given = [key for key in KEYS if key in row]
    if len(given) != 1:
        raise ValueError(f"exactly one of {', '.join(KEYS)} is needed, got {' and '.join(given) or 'none'}")
    own = {key: value for key, value in row.items() if key != "text"}
    taken = [key for key in own if key in RESULTS]
    if taken:
        raise ValueError(f"the key {taken[0]!r} is one of the result's; rename it")
    value = row[given[0]]
    if given[0] != "messages":
        if not isinstance(value, str):
            raise ValueError(f"{given[0]} must be a text, got {type(value).__name__}")
        return Prompt(text=value, own={"prompt": value} | own)
    if not isinstance(value, list) or not all(
        isinstance(part, dict) and all(isinstance(part.get(key), str) for key in ("role", "content")) for part in value
    ):
        raise ValueError("messages must be a list of objects with role and content, both texts")
    if not value or value[-1]["role"] == "assistant":
        raise ValueError("messages must end with one that is to be answered")
    return Prompt(messages=tuple((part["role"], part["content"]) for part in value), own=own)


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        UserError: there is no such file, or it is no text.
    """
    try:
        return decode_text(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; give a text file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give a text file") from None
    except ValueError:
        raise UserError(f"{path} is no text in UTF-8; give one, or convert it, e.g. with iconv -t utf-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a text file") from error


def prompts_of(options: WritingOptions) -> list[Prompt]:
    """The prompts that the options name; with `chat` every text is a user's message.

    Raises:
        UserError, DataError: a file cannot be read, see `read_prompts`.
    """
    if options.batch is not None:
        prompts = read_prompts(options.batch)
    else:
        text = options.prompt or "" if options.prompt_file is None else read_text(options.prompt_file)
        prompts = [Prompt(text=text, own={"prompt": text})]
    return [replace(p, messages=(("user", p.text),)) if options.chat and not p.messages else p for p in prompts]


def write(
    chat: Chat,
    prompts: Sequence[Prompt],
    options: WritingOptions,
    before: PromptState | None = None,
    *,
    on_read: Callable[[PromptState, int], None] = lambda state, tokens: None,
    on_text: Callable[[int, str], None] | None = None,
) -> Written:
    """Continue every prompt, all in one batch.

    Args:
        before: what was read before the prompts; an empty prompt then continues every row of it.
        on_read: called once the prompts were read, with the state after them and the number of their tokens.
        on_text: see `generation.generate`.
    """
    assert isinstance(options.seed, int)
    first = before is None
    rows = [chat.encode_messages(p.messages, first=first) if p.messages else chat.encode(p.text, first=first)
            for p in prompts]  # fmt: skip
    seeds: list[int] = []
    seen = Counter[Any]()
    for prompt in prompts:
        begin = options.seed + seen[prompt.text, prompt.messages]
        seeds += range(begin, begin + options.samples)
        seen[prompt.text, prompt.messages] += options.samples
    if before is not None and rows == [[]]:
        count = len(before.tokens)
        rows, prompts, seeds = rows * count, list(prompts) * count, seeds * count
    state = chat.network.read(rows, before, chunk=options.chunk)
    on_read(state, sum(map(len, rows)))
    if options.samples > 1:
        state = state.select([row for row in range(len(rows)) for _ in range(options.samples)])
    given = {field.name: getattr(options, field.name) for field in fields(GenerateOptions)} | {"seed": seeds}
    found = chat.network.generate(state, eos=chat.ends, decode=chat.tokenizer.decode, on_text=on_text, **given)
    return Written([prompt for prompt in prompts for _ in range(options.samples)], found, state)


class Written(NamedTuple):
    """What was written: for every text its prompt and the result, and the state before all of them."""

    prompts: list[Prompt]
    rows: list[Generated]
    state: PromptState


def result_of(prompt: Prompt, row: Generated, *, sample: int | None = None, tokenizer: Any = None) -> dict[str, Any]:
    """A line of results: the prompt's own keys, the text, why it ended, how many tokens, and their score.

    Args:
        sample: which of several it is.
        tokenizer: where given, the logarithms of every token's probability are in it, and the likeliest tokens'.
    """
    values = prompt.own | ({} if sample is None else {"sample": sample})
    values |= {"text": row.text, "reason": row.reason, "tokens": len(row.tokens), "score": row.score}
    if tokenizer is None:
        return values

    def named(token: int, log: float) -> dict[str, Any]:
        return {"id": token, "token": tokenizer.decode([token]), "logprob": log}

    logs = [named(*pair) for pair in zip(row.tokens, row.logprobs, strict=True)]
    for entry, others in zip(logs, row.top_logprobs, strict=False):
        entry["top"] = [named(*pair) for pair in others]
    return values | {"logprobs": logs}
