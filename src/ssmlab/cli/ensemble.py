"""`ssmlab ensemble`: several trained models as one."""

from pathlib import Path
from typing import Annotated

import typer


def ensemble(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of the new model; made where it is missing.")],
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="Folders of trained models: runs/<name>/models/<model>, two or more."),
    ],
) -> None:
    """Make a model that is the mean of others' probabilities, such as those of several seeds. It names them: they stay
    where they are. `classify`, `segment`, `evaluate`, `compare`, `robustness` and `explain` take it as any other."""
    from ssmlab.checkpoints.find import kind_of
    from ssmlab.checkpoints.folder import save_ensemble
    from ssmlab.core.errors import UserError

    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds files that are no model's; give another folder")
    if (folder / "model.safetensors").is_file():
        raise UserError(f"{folder} holds a trained model; give another folder")
    typer.echo(f"{len(models)} models in {save_ensemble(folder, models)}")
    if kind_of(folder) != "vision":
        return
    from ssmlab.cli.display import showing
    from ssmlab.tasks.classify.ensemble import calibrate

    try:
        with showing("interrupted; the model is there, without a calibration") as display:
            found = calibrate(folder, progress=display)
    except UserError as error:
        typer.echo(str(error))
    else:
        typer.echo(f"temperature {found['temperature']:.2f}, from {found['n']} images of the validation part")
