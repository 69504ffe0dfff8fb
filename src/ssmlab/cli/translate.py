"""`ssmlab translate`: as many lines out as in, in their order."""

import codecs
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import typer

from ssmlab.core.errors import UserError

MODEL = typer.Argument(metavar="MODEL", help="The folder of a translation model, or of a run with one.")
FILE = typer.Argument(
    None, metavar="[FILE]", help="A text in UTF-8, a sentence a line; standard input without it or for -."
)
FORCE = typer.Option(
    None,
    "--force",
    help="A file of translations, as many lines: print how likely the model finds each, and nothing else.",
)
PARAGRAPHS = typer.Option(
    False, "--paragraphs", help="Lines are paragraphs: split them after . ! ? and join the translations."
)
PREFIX = typer.Option(
    "", "--source-prefix", help="A text that comes before every line, such as the name of a language."
)


def translate(
    model: Path = MODEL,
    file: Path = FILE,
    out: Path = typer.Option(None, "--out", "-o", help="A file for the translations; standard output if not given."),
    beams: int = typer.Option(5, "--beams", min=1, help="Translations kept while searching; 1 is greedy search."),
    nbest: int = typer.Option(1, "--nbest", min=1, help="Print so many for every line, as JSON with scores."),
    scores: bool = typer.Option(False, "--scores", help="Print the score and a tab before every translation."),
    length_penalty: float = typer.Option(1.0, "--length-penalty", min=0, help="Scores are sum of log p / length^this."),
    no_repeat_ngram: int = typer.Option(0, "--no-repeat-ngram", min=0, help="No so many tokens twice; 0: they may."),
    max_tokens: int = typer.Option(None, "--max-tokens", min=1, help="Of a translation; 2 n + 20 of n if not given."),
    source_prefix: str = PREFIX,
    target_prefix: str = typer.Option("", "--target-prefix", help="What every translation begins with."),
    paragraphs: bool = PARAGRAPHS,
    force: Path = FORCE,
    batch_tokens: int = typer.Option(1024, "--batch-tokens", min=1, help="Tokens that are read at once."),
    device: str = typer.Option("auto", "--device", help="auto, cuda, mps or cpu."),
) -> None:
    """Translate a file line by line. Empty lines stay empty; translations are written as they are done."""
    _check(file, out, force, beams, nbest, paragraphs)
    from ssmlab.core.display import Display
    from ssmlab.generation.beams import BeamOptions
    from ssmlab.tasks.translate.translator import open_translator

    options = BeamOptions(beams=beams, nbest=nbest, length_penalty=length_penalty, no_repeat_ngram=no_repeat_ngram)
    total, display = _lines_in(file, force), Display(stderr=True)
    opened = open_translator(model, device=device)
    ends: deque[bytes] = deque()
    texts = _texts(file, ends)
    shared: dict[str, Any] = {"source_prefix": source_prefix, "batch_tokens": batch_tokens}
    if force:
        targets = _texts(force, deque())
        found = opened.score(zip(texts, targets, strict=True), length_penalty, **shared)
    else:
        shared |= {"max_tokens": max_tokens, "target_prefix": target_prefix, "paragraphs": paragraphs}
        found = opened.translate(texts, options, **shared)
    begin, tokens, cut, done = time.perf_counter(), 0, 0, 0
    display.start("translating", total, unit="lines")
    with open(out, "wb") if out else nullcontext(sys.stdout.buffer) as stream:
        try:
            for done, one in enumerate(found, 1):
                tokens, cut = tokens + len(one.tokens), cut + (one.reason == "length")
                stream.write(_line(one, force is not None, scores, nbest).encode("utf-8", "replace") + ends.popleft())
                stream.flush()
                display.update(done)
        finally:
            display.stop()
    seconds = time.perf_counter() - begin
    display.say(f"{done} lines, {tokens} tokens, {tokens / seconds:.1f} tokens/s")
    if cut:
        display.say(f"note: {cut} of them reached the longest translation and may be cut; --max-tokens allows more")


def _line(found: Any, forced: bool, scores: bool, nbest: int) -> str:
    """A line of results; what would break it becomes a blank."""
    if forced:
        return f"{found.score:.6f}"
    if nbest > 1:
        every = [{"text": one.text, "score": one.score, "reason": one.reason} for one in (found, *found.others)]
        return json.dumps(every[0] | {"nbest": every}, ensure_ascii=False)
    text = found.text.replace("\n", " ").replace("\r", " ")
    return f"{found.score:.6f}\t{text}" if scores else text


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


def _check(file: Path | None, out: Path | None, force: Path | None, beams: int, nbest: int, paragraphs: bool) -> None:
    """Report what can be seen before torch is imported."""
    for name, path in (("FILE", file), ("--force", force)):
        if path and str(path) != "-" and not path.is_file():
            raise UserError(f"{name} {path} is {'a folder' if path.is_dir() else 'not there'}; give a text")
    if force and (file is None or str(file) == "-"):
        raise UserError("--force needs the FILE that was translated")
    if nbest > beams:
        raise UserError(f"--nbest {nbest} needs as many beams, got --beams {beams}")
    if nbest > 1 and paragraphs:
        raise UserError("--nbest is of single sentences; leave out --paragraphs")
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise UserError(f"--out {out} is {'a folder' if out.is_dir() else 'in no folder that is there'}; name a file")
    if out and out.exists() and any(path and path.exists() and path.samefile(out) for path in (file, force)):
        raise UserError(f"--out {out} is the file that is read; name another")
    if (file is None or str(file) == "-") and sys.stdin.isatty():
        raise UserError("there is nothing to translate; name a file, or pipe one into the command")
