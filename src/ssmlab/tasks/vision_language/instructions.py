"""Instruction data from captions and boxes: what LLaVA's authors had GPT-4 write, and by which rules it is kept.

Source: Liu et al. 2023 (arXiv:2304.08485), section 3. The messages are our own, in instructions.toml.

One line of the file is one record. Every reply ends either there or, with its reason, in the file of refused ones next
to it. Both grow in the order of the scenes, so that a run that was killed goes on after the last whole line and ends
with the same bytes.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

from ssmlab.core.errors import UserError
from ssmlab.core.files import read_json, write_atomically, write_json
from ssmlab.core.lock import locked
from ssmlab.data.conversations.record import MARK
from ssmlab.tasks.vision_language.scenes import Scene, check_scenes
from ssmlab.tasks.vision_language.writer_options import KINDS, InstructionOptions
from ssmlab.tasks.vision_language.writers import Messages, Reply, RequestRefused, Writer, in_order

REFUSED, SETTINGS = ".refused.jsonl", ".settings.json"
_PAIR = re.compile(r"\s*===+\s*")
# what shows that the writer speaks of what it was given, not of an image
_SOURCE = re.compile(
    r"\b(captions?|bounding box(es)?|coordinates|the (given )?(description|sentence)s?|(as|is) described in)\b", re.I
)
_REFUSAL = re.compile(
    r"\b(as an ai\b|i'?m sorry|i am sorry|i cannot|i can'?t|i'?m unable|i am unable|language model)", re.I
)
_NUMBERS = re.compile(r"\[\s*0?\.\d+\s*,")


@dataclass(frozen=True)
class Made:
    """What `make_instructions` did, earlier starts included. reasons: why replies were refused -> how many."""

    records: int
    refused: int
    reasons: dict[str, int]
    asked: int


@dataclass
class _Progress:
    """What both files hold so far, and what decides over the next replies."""

    done: int = 0
    records: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


class Refused(Exception):
    """A reply that makes no record; the text is the reason."""


@cache
def forms() -> dict[str, Any]:
    """instructions.toml: messages, examples and rules by kind."""
    return tomllib.loads((files("ssmlab.tasks.vision_language") / "instructions.toml").read_text("utf-8"))


def messages_for(scene: Scene, kind: str) -> Messages:
    """What the writer is sent: the rules, the examples as earlier messages, and the scene."""
    form = forms()[kind]
    messages = [("system", form["system"].strip())]
    for example in form["examples"]:
        messages += [("user", example["known"].strip()), ("assistant", example["reply"].strip())]
    return [*messages, ("user", scene.known(form["boxes"]))]


def parse_pairs(text: str) -> list[tuple[str, str]]:
    """Questions and answers of a reply in the form "Question: ... === Answer: ... === ...".

    Raises:
        Refused: it has another form.
    """
    parts = [part for part in _PAIR.split(text.strip()) if part.strip()]
    pairs = []
    for n, part in enumerate(parts):
        name = "Answer" if n % 2 else "Question"
        found = re.match(rf"\s*{name}\s*:\s*", part, re.I)
        if not found or re.search(r"^\s*(question|answer)\s*:", part[found.end() :], re.I | re.M):
            raise Refused(f"not in the form of questions and answers (part {n + 1} must be one {name.lower()})")
        pairs.append(part[found.end() :].strip())
    if not pairs or len(pairs) % 2:
        raise Refused("the last question has no answer" if pairs else "empty")
    return list(zip(pairs[::2], pairs[1::2], strict=True))


def turns_of(scene: Scene, kind: str, reply: Reply) -> list[tuple[str, str]]:
    """Questions and answers that a reply makes; questions of one record that come again are left out.

    Raises:
        Refused: cut off, empty, refused, in another form, too short, or speaking of captions and boxes.
    """
    form, text = forms()[kind], reply.text.strip()
    if not text:
        raise Refused("empty")
    if reply.cut:
        raise Refused("cut off at the longest answer")
    if _REFUSAL.search(text):
        raise Refused("the writer refuses")
    if MARK in text:
        raise Refused(f"holds {MARK}")
    if "questions" in form:
        draw = int.from_bytes(hashlib.sha256(f"{scene.id}\n{kind}".encode()).digest()[:8], "big")
        pairs = [(form["questions"][draw % len(form["questions"])], text)]
        if re.match(r"\s*(question|answer)\s*:", text, re.I):
            raise Refused("a description is expected, not questions and answers")
    else:
        pairs = parse_pairs(text)
    if any(not question or not answer for question, answer in pairs):
        raise Refused("an empty question or answer")
    if _SOURCE.search(text) or _NUMBERS.search(text):
        raise Refused("speaks of captions, boxes or coordinates")
    kept = list({_plain(question): (question, answer) for question, answer in reversed(pairs)}.values())[::-1]
    least, most = form.get("least", 1), form.get("most", len(kept))
    if not least <= len(kept) <= most:
        raise Refused(f"{len(kept)} questions, expected {least} to {most}" if least != most else
                      f"{len(kept)} questions, expected {least}")  # fmt: skip
    if (words := sum(len(answer.split()) for _, answer in kept)) < form.get("least_words", 1):
        raise Refused(f"{words} words, fewer than {form['least_words']}")
    return kept


def make_instructions(
    scenes: Sequence[Scene],
    writer: Writer,
    out: str | Path,
    options: InstructionOptions | None = None,
    *,
    progress: Callable[[int, int], Any] | None = None,
    **given: Any,
) -> Made:
    """Have records written for scenes, and check them. A file that is there already is gone on with.

    Every line is one of LLaVA's records: {"id", "image", "conversations", "kind"}. Next to it lie <name>.refused.jsonl
    (id, kind, reason, reply) and <name>.settings.json, by which a start with other settings is refused.

    Args:
        out: a .jsonl file. options: the fields of `InstructionOptions` may also be given one by one; the files do not
            depend on `workers`.
        progress: called as progress(done, total) after every reply.
    Raises:
        DataError: scenes without captions and boxes, or ids that come twice.
        UserError: the file was begun with other settings, or is in use; the writer does not answer.
    """
    out = Path(out)
    options = InstructionOptions.of(options, given, "make_instructions")
    kinds = options.kinds
    if not kinds or len(set(kinds)) != len(kinds) or not {*kinds} <= {*KINDS}:
        raise UserError(f"kinds must be of {', '.join(KINDS)}, each once; got {', '.join(kinds) or 'none'}")
    check_scenes(scenes)
    if out.suffix != ".jsonl":
        raise UserError(f"{out}: name a file that ends in .jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    told = {"writer": writer.name, "kinds": list(kinds), "scenes": _hash(scenes), "messages": _hash(forms())}
    told |= {name: getattr(options, name) for name in ("temperature", "max_tokens", "seed")}
    refused, about = out.with_suffix(REFUSED), out.with_suffix(SETTINGS)
    with _alone(out):
        stored = read_json(about) if out.exists() else told
        if other := ", ".join(name for name in told if stored.get(name) != told[name]):
            raise UserError(f"{out} was begun with other {other}; repeat the command as it was, or name another file")
        write_json(about, told)
        work = [(scene, kind) for scene in scenes for kind in kinds]
        state = _go_on(out, refused, [(scene.id, kind) for scene, kind in work])
        begun = state.done

        def ask(item: tuple[Scene, str]) -> Reply | RequestRefused:
            try:
                return writer.write(messages_for(*item))
            except RequestRefused as error:
                return error

        replies = in_order(ask, work[begun:], options.workers)
        with open(out, "ab") as kept, open(refused, "ab") as dropped:
            for (scene, kind), reply in zip(work[begun:], replies, strict=True):
                if isinstance(reply, RequestRefused) and not state.records:
                    raise reply  # it takes none of them, not this one alone
                row = _judge(scene, kind, reply, state)
                _append(dropped if "reason" in row else kept, row)
                state.done += 1
                if progress is not None:
                    progress(state.done, len(work))
    return Made(state.records, sum(state.reasons.values()), state.reasons, state.done - begun)


def _judge(scene: Scene, kind: str, reply: Reply | RequestRefused, state: _Progress) -> dict[str, Any]:
    """The line that a reply becomes: a record, or the reason against it."""
    text = "" if isinstance(reply, RequestRefused) else reply.text
    try:
        if isinstance(reply, RequestRefused):
            raise Refused(str(reply))
        turns = turns_of(scene, kind, reply)
        said = _text_of(turns)
        if said in state.seen:
            raise Refused("the same as an earlier record")
    except Refused as error:
        state.reasons[str(error)] = state.reasons.get(str(error), 0) + 1
        return {"id": scene.id, "kind": kind, "reason": str(error), "reply": text}
    state.seen.add(said)
    state.records += 1
    messages = []
    for n, (question, answer) in enumerate(turns):
        asked = question if n else f"{MARK}\n{question}"
        messages += [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {"id": scene.id, "image": scene.image, "conversations": messages, "kind": kind}


def _go_on(out: Path, refused: Path, keys: list[tuple[str, str]]) -> _Progress:
    """What both files hold, after half a line at their ends and what has a gap before it were taken away.

    Raises:
        UserError: they hold records of other scenes.
    """
    rows = {file: _whole_lines(file) for file in (out, refused)}
    held = {_row_key(row) for lines in rows.values() for row, _ in lines}
    if not held <= set(keys):
        raise UserError(f"{out} holds records of other scenes; name another file")
    state = _Progress()
    while state.done < len(keys) and keys[state.done] in held:
        state.done += 1
    begun = set(keys[: state.done])
    for file, lines in rows.items():
        whole = b"".join(line for row, line in lines if _row_key(row) in begun)
        if not file.exists() or len(whole) != file.stat().st_size:
            write_atomically(file, whole)
        for row, _ in lines:
            if _row_key(row) not in begun:
                continue
            if file == refused:
                state.reasons[row["reason"]] = state.reasons.get(row["reason"], 0) + 1
            else:
                texts = [message["value"] for message in row["conversations"]]
                state.seen.add(_text_of(zip(texts[::2], texts[1::2], strict=True)))
                state.records += 1
    return state


def _whole_lines(file: Path) -> list[tuple[dict[str, Any], bytes]]:
    """The records of a file with their bytes; without the half line that a killed program may leave."""
    if not file.exists():
        return []
    found = []
    for line in file.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
            _row_key(row)
        except (ValueError, KeyError, TypeError):
            row = None
        if row is None or not line.endswith(b"\n"):
            break
        found.append((row, line))
    return found


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the lock of a file; two programs that append to one would mix their lines."""
    folder = out.with_name(f".{out.name}.working")
    try:
        with locked(folder):
            yield
    finally:
        with suppress(OSError):
            folder.rmdir()


def _append(file: BinaryIO, row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
    file.flush()


def _row_key(row: dict[str, Any]) -> tuple[str, str]:
    return row["id"], row["kind"]


def _text_of(turns: Iterable[tuple[str, str]]) -> str:
    """What two records have in common if they say the same, whatever their images."""
    return "\n".join(f"{_plain(question.replace(MARK, ''))}\t{_plain(answer)}" for question, answer in turns)


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.casefold()).split())


def _hash(value: Any) -> str:
    plain = [asdict(one) for one in value] if isinstance(value, list | tuple) else value
    return hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()
