"""Whether every file of a run is as it was written: by checksums, and where there are none, by structure."""

from contextlib import suppress
from pathlib import Path

from ssmlab.core.checksums import FILE, known
from ssmlab.core.errors import UserError
from ssmlab.core.record import read_records
from ssmlab.experiments.folder import is_run, run_info
from ssmlab.reports.run_folder import damaged_files, read_predictions
from ssmlab.tasks.recipe import load_recipe


def check_run(folder: Path) -> tuple[int, int, list[str]]:
    """Read every file of a run.

    Returns:
        how many files were compared with their checksums; how many others could be read, of versions without checksums
        and of models that are not finished; and what is wrong, a sentence each.
    Raises:
        UserError: the folder is no run's.
    """
    from ssmlab.models.weights import read_state_dict
    from ssmlab.training.resume import flaw_of

    if not folder.is_dir() or not is_run(folder):
        raise UserError(f"{folder} is not the folder of a run; give runs/<name>")
    problems = damaged_files(folder)
    compared: set[Path] = set()
    for place in (folder, *(file.parent for file in folder.glob(f"models/*/{FILE}"))):
        with suppress(ValueError):  # which is among the problems
            compared |= {place / name for name in known(place)}
    readers = {
        "run.json": lambda path: run_info(path.parent),
        "recipe.toml": lambda path: load_recipe(path.parent, need_path=False),
        "records.jsonl": read_records,
        "predictions.csv": read_predictions,
        "model.safetensors": read_state_dict,
    }
    others = [path for name in readers for path in (folder / name, *folder.glob(f"models/*/{name}"))]
    others = [path for path in others if path.is_file() and path not in compared]
    for path in others:
        try:
            readers[path.name](path)
        except UserError as error:
            problems.append(str(error))
    checkpoints = [
        c for model in ("models/*", "models/*/fold*") for c in folder.glob(f"{model}/checkpoints/checkpoint-*")
    ]
    problems += filter(None, map(flaw_of, checkpoints))
    return len(compared), len(others) + len(checkpoints), problems
