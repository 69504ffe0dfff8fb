"""A run's folder: checked first, made when everything else is in order, and never at the cost of another run."""

import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssmlab.core.checksums import FILE as CHECKSUMS
from ssmlab.core.checksums import damages, write_checksums
from ssmlab.core.errors import UserError
from ssmlab.core.files import read_json, write_atomically
from ssmlab.core.lock import FILE as LOCK
from ssmlab.core.lock import locked
from ssmlab.core.progress import Progress
from ssmlab.tasks.overrides import flatten
from ssmlab.tasks.recipe import validate
from ssmlab.tasks.shared.recipe import AnyRecipe

# Between a run and its continuation: neither changes what is computed
MAY_DIFFER = ("name", "device", "description", "training.accumulation", "training.sharding")
MARKER_FILE = (
    ".ssmlab-run"  # in every run's folder from the beginning: nothing without it, or a run.json of ours, is deleted
)
REPLACED = ".replaced"  # in it: the run that `--overwrite` is to delete, until the new one has a trained model
PAGE_DUE = ".page-due"  # in the folder of a run that is finished but for its page
_DELETED = ".deleted"  # what that becomes first, so that half a run is never put back


@contextmanager
def claim(folder: Path, progress: Progress, *, overwrite: bool = False) -> Iterator[Path]:
    """Hold the folder of a run: no other process works in it; it is made, and gone again if nothing came into it.

    A run that was put aside by `make_folder` comes back where the new one fails, or was killed, before it has trained
    anything.

    Args:
        overwrite: the run that is there is to be replaced.
    Raises:
        UserError: another process holds it, or it cannot be made or written to.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        other = "give the run another name with name=..." if there == folder else "give another --output"
        raise UserError(f"{there} is a file; {other}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there} cannot be written to; change its permissions, or give another --output")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    back = f"{folder}: the run that was to be replaced is back; the new one had trained nothing yet"
    try:
        with locked(folder):
            half_moved = not (folder / REPLACED / MARKER_FILE).is_file()
            if (half_moved or not overwrite) and _restore_replaced(folder):
                progress.say(back)
            try:
                yield folder
            except BaseException:
                if _restore_replaced(folder):
                    progress.say(back)
                raise
    finally:
        with suppress(OSError):  # it is not empty
            for path in made:
                path.rmdir()


def check_folder(recipe: AnyRecipe, output: Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """The folder `output/<name>`, in which nothing is written.

    A run of this recipe that is not finished may go on, whether or not `resume` is given.

    Raises:
        UserError: a finished run is there and neither `resume` nor `overwrite` is given; it holds something else; or
            the run to be continued was started with another recipe.
    """
    folder = output / recipe.name
    recipe_file = folder / "recipe.toml"
    if folder.is_dir() and any(not _is_ours(file) for file in folder.iterdir()):
        damaged = [] if overwrite else damages(folder, lambda name: name == recipe_file.name)
        if damaged:
            raise UserError(f"{damaged[0]}; put it back, or start again with --overwrite")
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
        elif not overwrite and is_finished(folder) and not (folder / PAGE_DUE).is_file():
            raise UserError(
                f"{folder} already holds a run ({state_of(folder)}); --overwrite starts it again, name=... gives "
                "another folder"
            )
    return folder


def make_folder(recipe: AnyRecipe, folder: Path, *, overwrite: bool = False) -> None:
    """Make the folder that `check_folder` has passed ready, with its mark and the resolved recipe in it.

    With `overwrite` the run that is there is put aside, in `.replaced`; `drop_replaced` deletes it.
    """
    if overwrite and is_run(folder) and not folder.is_symlink():
        _put_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    if not (folder / MARKER_FILE).is_file():
        write_atomically(
            folder / MARKER_FILE, "The folder of a run of ssmlab; `ssmlab run --overwrite` may delete it.\n"
        )
    if not (folder / "recipe.toml").is_file():
        text = recipe.to_toml()
        write_checksums(folder, {}, {"recipe.toml": text})
        write_atomically(folder / "recipe.toml", text)


def _put_aside(folder: Path) -> None:
    """Move a run into `.replaced`, its mark last: where that is there, nothing of it is left outside."""
    aside = folder / REPLACED
    worth = _has_progress(folder) or is_finished(folder)
    if (aside / MARKER_FILE).is_file() or not (
        worth or aside.is_dir()
    ):  # the better run is aside already, or there is none
        _clear(folder, LOCK, REPLACED)
        return
    aside.mkdir(exist_ok=True)
    for path in list(folder.iterdir()):
        if path.name not in (LOCK, REPLACED, MARKER_FILE):
            os.replace(path, aside / path.name)
    (folder / MARKER_FILE).touch()  # runs of older versions have none
    os.replace(folder / MARKER_FILE, aside / MARKER_FILE)


def _restore_replaced(folder: Path) -> bool:
    """Put a run back that `--overwrite` has moved aside, unless the new one has a checkpoint or a trained model by now.

    Returns:
        whether one was put back.
    """
    aside = folder / REPLACED
    if not aside.is_dir() or ((aside / MARKER_FILE).is_file() and _has_progress(folder)):
        return False
    if (aside / MARKER_FILE).is_file():
        _clear(folder, LOCK, REPLACED)
        os.replace(aside / MARKER_FILE, folder / MARKER_FILE)
    for path in list(aside.iterdir()):
        os.replace(path, folder / path.name)
    aside.rmdir()
    return True


def drop_replaced(folder: Path) -> None:
    """Delete what `--overwrite` has moved aside."""
    if (folder / REPLACED).is_dir():
        os.replace(folder / REPLACED, folder / _DELETED)
    shutil.rmtree(folder / _DELETED, ignore_errors=True)


def _has_progress(folder: Path) -> bool:
    """Whether a checkpoint or a finished model, or of a sweep a trial, is in a run's folder."""
    models = ("models/*", "models/*/fold*")
    patterns = [f"{model}/{what}" for model in models for what in ("checkpoints/checkpoint-*", "records.jsonl")]
    patterns += ["trials/*/models/*", "sweep.jsonl"]
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def _clear(folder: Path, *kept: str) -> None:
    """Delete all but these, last what makes the folder one of a run."""
    last = ("recipe.toml", MARKER_FILE)
    for path in sorted(folder.iterdir(), key=lambda path: last.index(path.name) if path.name in last else -1):
        if path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Delete what a run that was killed has half written: `.*.partial`, temporary files of safetensors and numpy, and
    checkpoints of models that are finished."""
    shutil.rmtree(folder / _DELETED, ignore_errors=True)
    for path in list(folder.rglob(".*")):
        temporary = path.name.startswith(".tmp") and len(path.name) == 10  # as safetensors names them
        left = path.name.startswith(f"{LOCK}.") or path.name.endswith((".partial", ".partial.npz"))
        if (left or temporary) and REPLACED not in path.parts:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    for mark in (*folder.glob("models/*/records.jsonl"), *folder.glob("models/*/fold*/records.jsonl")):
        shutil.rmtree(mark.parent / "checkpoints", ignore_errors=True)


def is_run(folder: Path) -> bool:
    """Whether a run was started in this folder."""
    return (folder / MARKER_FILE).is_file() or {"name", "task", "models"} <= run_info(folder).keys()


def _is_ours(file: Path) -> bool:
    """Whether a file says nothing of a run: a mark, a lock, or half a file of one that was killed at its beginning."""
    if file.name in (MARKER_FILE, CHECKSUMS, REPLACED) or file.name.startswith(LOCK):
        return True
    names = tuple(f".{name}." for name in ("recipe.toml", MARKER_FILE, CHECKSUMS))
    return file.name.endswith(".partial") and file.name.startswith(names)


def is_finished(folder: Path) -> bool:
    """Whether a run's folder says that the run, or the sweep, is finished."""
    return bool(run_info(folder).get("finished")) or (folder / "best.toml").is_file()


def run_info(folder: Path) -> dict:
    """What run.json of a run holds, {} where there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        found = read_json(folder / "run.json")
    except ValueError as error:
        raise UserError(
            f"{folder / 'run.json'} is damaged ({error}); put it back, or start again with --overwrite"
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{folder / 'run.json'} is damaged; put it back, or start again with --overwrite")
    return found


def state_of(folder: Path) -> str:
    """Whether a run is finished, in words."""
    return f"finished {run_info(folder).get('finished', '')}".strip() if is_finished(folder) else "not finished"


def _changed(recipe: AnyRecipe, file: Path, unreadable: str = "") -> str:
    """In which values the recipe of a run is another one than this, the task first; empty where it is the same.

    Args:
        unreadable: is returned for a file that is no recipe; empty: that is an error.
    """
    try:  # with the defaults of keys that are newer than the run
        before = flatten(validate(tomllib.loads(file.read_text(encoding="utf-8")), str(file)).model_dump())
    except (UserError, ValueError) as error:
        if unreadable:
            return unreadable
        raise UserError(f"{file} cannot be read ({error}); put it back, or start again with --overwrite") from None
    now = flatten(recipe.model_dump())
    if recipe.base.recipe or recipe.base.weights:  # which the run itself has filled in
        filled = re.compile(r"base\.weights|models\.\d+\.(weights|options\..*)")
        before = {key: now.get(key) if filled.fullmatch(key) and not now.get(key) else before[key] for key in before}
    changed = [
        f"{key}={before.get(key)!r} (now {now.get(key)!r})"
        for key in sorted(before.keys() | now.keys(), key=lambda key: (key != "task", key))
        if before.get(key) != now.get(key) and key not in MAY_DIFFER
    ]
    return f"{', '.join(changed[:4])}{' ...' if len(changed) > 4 else ''}"
