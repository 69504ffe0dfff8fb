"""What an ensemble of image models says about its probabilities: a temperature and a threshold of its own."""

import json
from pathlib import Path
from typing import Any

from ssmlab.checkpoints.find import read_object
from ssmlab.checkpoints.folder import load_model
from ssmlab.core.device import choose_compute
from ssmlab.core.errors import UserError
from ssmlab.core.files import write_json
from ssmlab.core.progress import Progress
from ssmlab.tasks.classify.experiment import dataset_of
from ssmlab.tasks.classify.python import task_of
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.shared.calibration import KEY, calibration_of
from ssmlab.tasks.table import load_data
from ssmlab.training.predict import predict


def calibrate(folder: Path, *, device: str = "auto", progress: Progress | None = None) -> dict[str, Any]:
    """Find temperature and threshold of an ensemble on the validation part that all its members share, and save them in
    its preprocess.json.

    Args:
        folder: of the ensemble, see `save_ensemble`.
    Returns:
        the calibration, as `calibration_of` has it.
    Raises:
        UserError: the members share no validation part: they are of no run, of runs on other data or other parts, or
            folds, each of which has learned from what the others validate on.
    """
    members = [(folder / name).resolve() for name in read_object(folder / "config.json").get("members", ())]
    runs = list(dict.fromkeys(member.parent.parent for member in members if member.parent.name == "models"))
    recipes: list[Any] = [load_recipe(run) for run in runs if (run / "recipe.toml").is_file()]
    shared = {json.dumps(recipe.data.model_dump(), sort_keys=True, default=str) for recipe in recipes}
    inside = all(member.parent.name == "models" for member in members) and len(recipes) == len(runs)
    if not inside or len(shared) != 1 or recipes[0].task != "classify" or recipes[0].folded:
        raise UserError(
            f"{folder} is not calibrated: its members have no validation part in common, as models of runs on the same "
            "data and parts have"
        )
    recipe, progress = recipes[0], progress or Progress()
    data, compute = load_data(recipe, progress), choose_compute(device, "float32")
    network, about = load_model(folder, "vision")
    network, task = network.to(compute.device), task_of(about)
    if tuple(task.classes) != tuple(data.classes):
        raise UserError(f"{folder} is not calibrated: {recipe.data.path} has other classes than it")
    found = predict(
        network, task, dataset_of(data.val), batch_size=recipe.evaluation.batch_size, compute=compute,
        title="calibrating", progress=progress,
    )  # fmt: skip
    config, labels = recipe.evaluation, data.val.labels
    calibration = calibration_of(found.values, labels, task.classes, config.positive, config.sensitivity)
    write_json(folder / "preprocess.json", read_object(folder / "preprocess.json") | {KEY: calibration})
    return calibration
