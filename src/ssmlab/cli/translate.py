"""`ssmlab translate`: as many lines out as in, in their order."""

import codecs
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmlab.cli.options import takes
from ssmlab.core.errors import UserError
from ssmlab.tasks.translate.options import TranslateFileOptions


@takes(TranslateFileOptions)
def translate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The folder of a translation model, or of a run with one.")
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="A text in UTF-8, a sentence a line; standard input without it or for -."
        ),
    ] = None,
    *,
    options: TranslateFileOptions,
) -> None:
    """Translate a file line by line. Empty lines stay empty; translations are written as they are done."""
    out, force = options.out, options.force
    _check(file, out, force)
    from ssmlab.core.display import Display
    from ssmlab.tasks.translate.translator import open_translator

    total, display = _lines_in(file, force), Display(stderr=True)
    opened = open_translator(model, device=options.device)
    if opened.note:
        display.say(opened.note)
    ends: deque[bytes] = deque()
    texts = _texts(file, ends)
    found = opened.translate(texts, options)
    if force:
        found = opened.score(zip(texts, _texts(force, deque()), strict=True), options)
    begin, tokens, cut, done = time.perf_counter(), 0, 0, 0
    display.start("translating", total, unit="lines")
    with open(out, "wb") if out else nullcontext(sys.stdout.buffer) as stream:
        try:
            for done, one in enumerate(found, 1):
                tokens, cut = tokens + len(one.tokens), cut + (one.reason == "length")
                stream.write(_line(one, options).encode("utf-8", "replace") + ends.popleft())
                stream.flush()
                display.update(done)
        finally:
            display.stop()
    seconds = time.perf_counter() - begin
    display.say(f"{done} lines, {tokens} tokens, {tokens / seconds:.1f} tokens/s")
    if cut:
        display.say(f"note: {cut} of them reached the longest translation and may be cut; --max-tokens allows more")


def _line(found: Any, options: TranslateFileOptions) -> str:
    """A line of results; what would break it becomes a blank."""
    if options.force:
        return f"{found.score:.6f}"
    if options.nbest > 1:
        every = [{"text": one.text, "score": one.score, "reason": one.reason} for one in (found, *found.others)]
        return json.dumps(every[0] | {"nbest": every}, ensure_ascii=False)
    text = found.text.replace("\n", " ").replace("\r", " ")
    return f"{found.score:.6f}\t{text}" if options.scores else text


def _texts(file: Path | None, ends: deque[bytes]) -> Iterator[str]:
    """The lines of a file, split at line feeds alone, and how each ends.

    Raises:
        UserError: it is UTF-16.
    """
    with open(file, "rb") if file and str(file) != "-" else nullcontext(sys.stdin.buffer) as stream:
        for number, line in enumerate(stream):
            if not number and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise UserError(f"{file or 'standard input'} is UTF-16; save it as UTF-8")
            body = line.removesuffix(b"\n").removesuffix(b"\r")
            ends.append(line[len(body) :])
            yield (body if number else body.removeprefix(codecs.BOM_UTF8)).decode("utf-8", "surrogateescape")


def _lines_in(file: Path | None, force: Path | None) -> int:
    """How many lines there are, 0 where nobody knows.

    Raises:
        UserError: two files that belong together have different numbers of them.
    """
    counts = []
    for path in (file, force):
        if path and str(path) != "-":
            with open(path, "rb") as stream:
                counts.append(sum(1 for _ in stream))
    if len(counts) == 2 and counts[0] != counts[1]:
        raise UserError(f"{file} has {counts[0]} lines, {force} has {counts[1]}; they belong together line by line")
    return counts[0] if file and str(file) != "-" else 0


def _check(file: Path | None, out: Path | None, force: Path | None) -> None:
    """Report what can be seen before torch is imported."""
    for name, path in (("FILE", file), ("--force", force)):
        if path and str(path) != "-" and not path.is_file():
            raise UserError(f"{path} is a folder; give a text" if path.is_dir() else f"{name}: there is no file {path}")
    if force and (file is None or str(file) == "-"):
        raise UserError("--force needs the FILE that was translated")
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise UserError(f"--out {out} is {'a folder' if out.is_dir() else 'in no folder that is there'}; name a file")
    if out and out.exists() and any(path and path.exists() and path.samefile(out) for path in (file, force)):
        raise UserError(f"--out {out} is the file that is read; name another")
    if (file is None or str(file) == "-") and sys.stdin.isatty():
        raise UserError("there is nothing to translate; name a file, or pipe one into the command")
