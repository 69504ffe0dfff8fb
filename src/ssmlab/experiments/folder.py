"""A run's folder: checked first, made when everything else is in order, and never at the cost of another run."""

import shutil
import tomllib
from pathlib import Path

from ssmlab.core.errors import UserError
from ssmlab.core.files import read_json, write_atomically
from ssmlab.tasks.overrides import flatten
from ssmlab.tasks.recipe import validate
from ssmlab.tasks.shared.recipe import AnyRecipe

MAY_DIFFER = ("name", "device", "description")  # between a run and its continuation
MARKER_FILE = (
    ".ssmlab-run"  # in every run's folder from the beginning: nothing without it, or a run.json of ours, is deleted
)


def check_folder(recipe: AnyRecipe, output: Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """The folder `output/<name>`, which is not touched.

    Raises:
        UserError: a run is there and neither `resume` nor `overwrite` is given; it holds something else; or the run
            to be continued was started with another recipe.
    """
    folder = output / recipe.name
    recipe_file = folder / "recipe.toml"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give the run another name with name=...")
    if folder.is_dir() and any(file.name != MARKER_FILE and not _is_leftover(file) for file in folder.iterdir()):
        if not recipe_file.is_file():
            raise UserError(f"{folder} holds files that are not a run's; give the run another name with name=...")
        if resume:
            if changed := _changed(recipe, recipe_file):
                raise UserError(
                    f"{folder} was started with {changed}; resume it as it was with `ssmlab run {folder} --resume`, or "
                    "give the new run a name=..."
                )
        elif not is_run(folder):
            raise UserError(
                f"{folder} has a recipe.toml and other files, but no run was started there; nothing in it is deleted, "
                "give the run another name with name=..."
            )
        elif overwrite and folder.is_symlink():
            raise UserError(
                f"{folder} is a link to {folder.resolve()}, which --overwrite leaves alone; remove the link, or give "
                "the run another name with name=..."
            )
        elif not overwrite and (changed := _changed(recipe, recipe_file, "its recipe.toml cannot be read any more")):
            raise UserError(
                f"{folder} holds a run of another recipe ({state_of(folder)}): {changed}; give this one another folder "
                "with name=..., or delete that one with --overwrite"
            )
        elif not overwrite:
            raise UserError(
                f"{folder} already holds a run ({state_of(folder)}); add --resume to continue it, --overwrite to start "
                "again, or name=... for another folder"
            )
    return folder


def make_folder(recipe: AnyRecipe, folder: Path, *, overwrite: bool = False) -> None:
    """Make the folder that `check_folder` has passed, with its marker file and the resolved recipe in it."""
    if overwrite and is_run(folder) and not folder.is_symlink():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file in filter(_is_leftover, list(folder.iterdir())):
        file.unlink()
    if not (folder / MARKER_FILE).is_file():
        write_atomically(
            folder / MARKER_FILE, "The folder of a run of ssmlab; `ssmlab run --overwrite` may delete it.\n"
        )
    if not (folder / "recipe.toml").is_file():
        write_atomically(folder / "recipe.toml", recipe.to_toml())


def is_run(folder: Path) -> bool:
    """Whether a run was started in this folder."""
    return (folder / MARKER_FILE).is_file() or {"name", "task", "models"} <= read_json(folder / "run.json").keys()


def _is_leftover(file: Path) -> bool:
    """Half a file, of a run that was killed while it wrote the first ones."""
    return file.name.endswith(".partial") and file.name.startswith((".recipe.toml.", f".{MARKER_FILE}."))


def state_of(folder: Path) -> str:
    """Whether a run is finished, in words."""
    finished = read_json(folder / "run.json").get("finished")
    return f"finished {finished}" if finished else "not finished"


def _changed(recipe: AnyRecipe, file: Path, unreadable: str = "") -> str:
    """In which values the recipe of a run is another one than this, the task first; empty where it is the same.

    Args:
        unreadable: is returned for a file that is no recipe; empty: that is an error.
    """
    try:  # with the defaults of keys that are newer than the run
        before = flatten(validate(tomllib.loads(file.read_text(encoding="utf-8")), str(file)).model_dump())
    except (UserError, ValueError):
        if unreadable:
            return unreadable
        raise
    now = flatten(recipe.model_dump())
    changed = [
        f"{key}={before.get(key)!r} (now {now.get(key)!r})"
        for key in sorted(before.keys() | now.keys(), key=lambda key: (key != "task", key))
        if before.get(key) != now.get(key) and key not in MAY_DIFFER
    ]
    return f"{', '.join(changed[:4])}{' ...' if len(changed) > 4 else ''}"
