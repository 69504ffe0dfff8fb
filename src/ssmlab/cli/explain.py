"""`ssmlab explain`: what a model looked for in a picture, and where."""

from pathlib import Path

import typer
from typer.core import TyperCommand

from ssmlab.cli.published import AcceptLicence, Pretrained, as_files

SEVERAL = "--classes"


class TakesSeveral(TyperCommand):
    """`--classes guacamole plate` is `--classes guacamole --classes plate`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args, SEVERAL))


def spread(args: list[str], option: str) -> list[str]:
    """Repeat an option before every value that follows it, up to the next option."""
    out: list[str] = []
    values = False  # whether what comes is the option's
    for i, arg in enumerate(args):
        if arg == option:
            values = True
            if i + 1 == len(args) or args[i + 1].startswith("-"):
                out.append(option)  # without a value, as typer shall say
        elif values and not arg.startswith("-"):
            out += [option, arg]
        else:
            values = False
            out.append(arg)
    return out


UNTRAINED = " has random weights and has learnt nothing; give --weights FILE, --pretrained or a trained model"
MODEL = typer.Argument(
    metavar="MODEL",
    help="A run's folder, a trained model's, its weights file, a name of `ssmlab models`, or timm/<name>.",
)
CLASSES = typer.Option(
    None, SEVERAL, metavar="CLASS...", help="By name or index; the predicted one and the runner-up if not given."
)


def explain(
    model: str = MODEL,
    images: list[Path] = typer.Argument(metavar="IMAGE...", help="Pictures, and folders of them."),
    classes: list[str] = CLASSES,
    weights: str = typer.Option(None, help="A file of weights for a network by name; else they are random."),
    steps: int = typer.Option(128, min=0, help="Of the search for learned features; 0 leaves them out."),
    scores: bool = typer.Option(True, "--scores/--no-scores", help="Deletion, insertion and the sanity check."),
    seed: int = typer.Option(0, min=0, help="Of features, random maps and random weights."),
    device: str = typer.Option("auto", help="auto, cuda, mps or cpu."),
    output: Path = typer.Option(None, help="The folder; runs/explain-<model> if not given."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace the explanation that is there."),
    pretrained: Pretrained = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Show what a model says about pictures, what it looks for, and where it found it, on one page.

    Classes stand behind the pictures: ssmlab explain runs/cats cat.jpg --classes cat dog
    """
    import shlex
    import sys

    from ssmlab.cli.display import showing
    from ssmlab.core.errors import DataError
    from ssmlab.tasks.classify.predict import find_pictures

    files, problems, notes = find_pictures(images)
    (model,), named = as_files([model], [weights] if weights else [], pretrained, accept_licence)
    from ssmlab.core.stamp import Stamp, commit, machine, versions
    from ssmlab.interpret.visualise import Search
    from ssmlab.studies.explain.explanation import Options
    from ssmlab.studies.explain.explanation import explain as find
    from ssmlab.studies.explain.opening import find_classes, open_model, read_pictures
    from ssmlab.studies.explain.page import doubted, said
    from ssmlab.studies.explain.result import MARK, write_explanation
    from ssmlab.studies.study import check_report_folder

    weights = named[0].removeprefix(f"{model}=") if named else None
    opened, why = open_model(model, weights=weights, device=device)
    asked = tuple(find_classes(classes or [], opened.classes))
    folder = output or Path("runs") / f"explain-{Path(model).name}"
    files, pictures, unreadable = read_pictures(files, opened.image_size, opened.fit)
    problems += unreadable
    if not files:
        raise DataError("there is no picture to explain", problems)
    check_report_folder(folder, MARK, "an explanation", overwrite=overwrite)
    search = Search(steps=steps, colour="grey" if opened.grey else "imagenet", seed=seed)
    options = Options(classes=asked, search=search, score_steps=16 if scores else 0, seed=seed)
    stamp = Stamp(run=folder.name, task="explain", command=shlex.join(["ssmlab", *sys.argv[1:]]), commit=commit(),
                  machine=machine(opened.device), versions=versions())  # fmt: skip
    with showing("interrupted; nothing was written") as display:
        for line in filter(None, (why, *notes, opened.untrained and f"{model}{UNTRAINED}", doubted(opened.doubt))):
            display.say(line)
        found = find(opened, pictures, [str(file) for file in files], options, progress=display)
    path = write_explanation(folder, found, stamp)
    for picture in found.pictures:
        typer.echo(f"{picture.name}: {said(found, picture)}")
    typer.echo(f"report: {path}")
    if problems:
        raise DataError(f"{len(problems)} of {len(files) + len(problems)} pictures cannot be read", problems)
