"""`ssmlab explain` of a model of texts or other sequences: tokens with their scores, and the page."""

import sys
from pathlib import Path

import typer

from ssmlab.studies.explain import Options


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


def explain_texts(model: str, folder: Path, why: str, files: list[Path], texts: list[str], options: Options) -> None:
    """Explain what the model in a folder says about files and texts."""
    from ssmlab.checkpoints.find import kind_of
    from ssmlab.cli.display import command_line, showing
    from ssmlab.core.errors import DataError, UserError
    from ssmlab.core.stamp import now
    from ssmlab.studies.explain.judging import judge
    from ssmlab.studies.explain.page import doubted
    from ssmlab.studies.explain.pictures import SCORE_STEPS
    from ssmlab.studies.explain.texts import TextOptions, explain_sequences, open_reader
    from ssmlab.studies.explain.texts_report import write_texts
    from ssmlab.studies.study import stamp_of

    if not files and not texts:
        raise UserError(f"{folder} is a model of sequences; name files, - for standard input, or give --text TEXT")
    if options.weights:
        raise UserError(f"--weights {options.weights}: {model} has weights of its own; leave the option out")
    started, target = now(), options.folder(Path("runs"), [Path(model).name])
    reader, read = open_reader(folder, options.device)
    sequences, problems = read(files, sys.stdin.buffer.read, texts)
    if not sequences:
        raise DataError("there is nothing to explain", problems)
    steps = SCORE_STEPS if options.scores else 0
    settings = TextOptions(classes=options.classes, score_steps=steps, seed=options.seed)
    stamp = stamp_of(options.study, target, command_line(), str(next(reader.network.parameters()).device))
    with showing("interrupted; nothing was written") as display:
        if why:
            display.say(why)
        found = explain_sequences(reader, sequences, settings, display)
        task = "classify_sequence" if kind_of(folder) == "sequence_classifier" else "language"
        doubt = judge(reader.network, folder, reader.title, task, options.data, options.device, display)
        if warning := doubted(doubt, "colours"):
            display.say(warning)
    path = write_texts(target, reader, found, settings, stamp, started, warning)
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
    typer.echo(f"report: {path}")
    if problems:
        raise DataError(f"{len(problems)} of {len(found) + len(problems)} sequences cannot be read", problems)
