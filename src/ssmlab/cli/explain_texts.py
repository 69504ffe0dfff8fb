"""`ssmlab explain` of a model of texts or other sequences: tokens with their scores, and the page."""

import sys
from pathlib import Path

import typer


def sequence_folder(model: str) -> tuple[Path, str] | None:
    """The folder of the model of sequences that a path means, and how it was chosen; None for anything else."""
    from ssmlab.checkpoints.find import SEQUENCES, find_folder, kind_of
    from ssmlab.core.errors import ModelError

    place = next((path for path in (Path(model), Path("runs") / model) if path.exists()), None)
    if place is None:
        return None
    try:
        folder, why = find_folder(place, choose=True)
        return (folder, why) if kind_of(folder) in SEQUENCES else None
    except ModelError:  # explained by who opens models of images
        return None


def explain_texts(
    model: str, folder: Path, files: list[Path], texts: list[str], *, classes: list[str], scores: bool, seed: int,
    device: str, output: Path | None, overwrite: bool,
) -> None:  # fmt: skip
    """Explain what the model in a folder says about files and texts."""
    from ssmlab.cli.display import showing
    from ssmlab.core.errors import DataError, UserError
    from ssmlab.core.stamp import Stamp, commit, machine, now, versions
    from ssmlab.studies.explain.texts import TextOptions, explain_sequences, open_reader
    from ssmlab.studies.explain.texts_report import MARK, write_texts
    from ssmlab.studies.study import check_report_folder

    if not files and not texts:
        raise UserError(f"{folder} is a model of sequences; name files, - for standard input, or give --text TEXT")
    target = output or Path("runs") / f"explain-{Path(model).name}"
    check_report_folder(target, MARK, "an explanation", overwrite=overwrite)
    reader, read = open_reader(folder, device)
    sequences, problems = read(files, sys.stdin.buffer.read, texts)
    if not sequences:
        raise DataError("there is nothing to explain", problems)
    options = TextOptions(classes=tuple(classes), score_steps=16 if scores else 0, seed=seed)
    place = str(next(reader.network.parameters()).device)
    command = " ".join(["ssmlab", *sys.argv[1:]])
    stamp = Stamp(run=target.name, task="explain", command=command, commit=commit(), machine=machine(place),
                  versions=versions())  # fmt: skip
    with showing("interrupted; nothing was written") as display:
        found = explain_sequences(reader, sequences, options, display)
    path = write_texts(target, reader, found, options, stamp, now())
    _show(found)
    typer.echo(f"report: {path}")
    if problems:
        raise DataError(f"{len(problems)} of {len(found) + len(problems)} sequences cannot be read", problems)


def _show(found: list) -> None:
    """The tokens in colours where the terminal has them, and the strongest words with their scores."""
    from rich.console import Console
    from rich.text import Text

    from ssmlab.studies.explain.texts import words_of
    from ssmlab.studies.explain.texts_report import predicted

    console = Console(highlight=False)
    for sequence in found:
        console.print(f"{sequence.name}: {predicted(sequence)}", markup=False, soft_wrap=True)
        for answer in sequence.answers:
            most = max((abs(piece.score) for piece in answer.pieces), default=0.0) or 1.0
            line = Text()
            for piece in answer.pieces:
                share = abs(piece.score) / most
                colour = ("orange1" if piece.score > 0 else "blue") if share > 0.15 else ""
                line.append(piece.text, style=f"{'bold ' if share > 0.5 else ''}{colour}".strip())
            console.print(line)
            strongest = sorted(words_of(answer), key=lambda pair: -abs(pair[1]))[:8]
            shown = ", ".join(f"{word.strip() or repr(word)} {score:+.3f}" for word, score in strongest)
            console.print(f"  for {answer.name}: {shown}", markup=False, soft_wrap=True)
            for method, curves in answer.curves.items():
                areas = ", ".join(f"{kind} {float(curve.auc):.3f}" for kind, curve in curves.items())
                console.print(f"  {method}: {areas}", markup=False, soft_wrap=True)
