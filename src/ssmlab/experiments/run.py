"""A run: data, models on the same splits and seeds, evaluation, costs, records and report.

Nothing heavy is imported before the recipe, the folder and all data have been checked.
"""

import json
import os
import shutil
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

from ssmlab.core.errors import RecipeError, UserError
from ssmlab.core.files import read_json, write_json, write_records
from ssmlab.core.progress import Progress, duration
from ssmlab.core.record import Record, read_records
from ssmlab.core.stamp import Stamp, commit, machine, now, versions
from ssmlab.experiments.folder import check_folder, make_folder
from ssmlab.experiments.jobs import base_task, jobs_of
from ssmlab.experiments.options import FolderOptions
from ssmlab.experiments.published import fetch_published
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.shared.job import Job
from ssmlab.tasks.shared.recipe import AnyRecipe
from ssmlab.tasks.table import experiment_of, load_data, report_of

MOST_NOTES = 12  # on the data, in the terminal
SLOWER = "selective scans on the CPU take the plain PyTorch path and are slower; install again with a C++ compiler"


def run_recipe(
    recipe: AnyRecipe,
    options: FolderOptions | None = None,
    *,
    command: str | None = None,
    progress: Progress | None = None,
    accept_licence: bool = False,
    **given: Any,
) -> Path:
    """Train, test and compare the models of a recipe.

    Args:
        options: of which the fields may also be given one by one. output: the run's folder is `output/<recipe.name>`.
            resume: continue a run that was interrupted: finished models are kept, an unfinished one goes on from its
                last complete checkpoint. Without such a run, a new one is started.
            overwrite: delete a run of this name first.
        command: what the records say was typed.
        accept_licence: accept the licences of published weights, where they must be accepted once.
    Returns:
        the run's folder.
    Raises:
        UserError: the recipe, the data or the folder are not in order, a loss is not finite, or memory does not
            suffice.
        KeyboardInterrupt: the run can be resumed.
    """
    options = FolderOptions.of(options, given, "run_recipe")
    output, resume, overwrite = Path(options.output), options.resume, options.overwrite
    progress = progress or Progress()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("a run is one process; start it without torchrun or accelerate launch")
    folder = check_folder(recipe, output, resume=resume, overwrite=overwrite)
    if resume and read_json(folder / "run.json").get("finished"):
        progress.say(f"{folder} is finished already")
        return folder
    if recipe.device not in ("auto", "cpu"):  # these are always there; others are checked before data are read
        from ssmlab.core.device import choose_compute

        choose_compute(recipe.device, "float32")
    fetch_published(recipe, accept_licence)
    if recipe.base.recipe or recipe.base.weights:
        run_base(recipe, output, progress, overwrite)
    data = load_data(recipe, progress)
    before = read_json(folder / "run.json").get("data", {}).get("split_hash") if resume else None
    if before not in (None, data.describe["split_hash"]):
        raise UserError(
            f"{folder}: the {data.describe.get('items', 'images')} or their parts are not those that the run was "
            "started with; put them back, or start again with --overwrite"
        )
    run = Run(recipe, folder, data, resume, command, progress)
    run.announce()
    make_folder(recipe, folder, overwrite=overwrite)
    run.describe()
    for job in run.jobs:
        if job.finished:
            progress.say(f"{job.folder.name}: finished already")
        else:
            run.fit(job)
        run.describe()
    run.finish()
    return folder


class Run:
    """A run under way. Results live in files, so that a resumed run goes on from those of the interrupted one."""

    def __init__(self, recipe, folder, data, resume, command, progress):
        from ssmlab.tasks.shared.experiment import compute_of

        self.recipe, self.folder, self.data = recipe, folder, data
        self.resume, self.progress = resume, progress
        self.experiment, self.resolved = experiment_of(recipe, data)
        self.find_base = cache(partial(base_task, recipe))
        robust = recipe.task == "classify" and recipe.evaluation.robustness.transformations != "none"
        self.robust = robust  # every trained model is tested under transformations
        self.computes = {model.label: compute_of(recipe, model) for model in recipe.models}
        self._start = getattr(recipe, "model", "")  # the weights of models without their own
        self.device = self.computes[recipe.models[0].label].device
        self.jobs = jobs_of(recipe, folder)
        self.stamp = Stamp(
            run=recipe.name,
            task=recipe.task,
            command=command or " ".join(sys.argv),
            commit=commit(),
            machine=machine(self.device),
            versions=versions(),
        )

    def announce(self) -> None:
        """Say what the numbers will rest on, how long what is left will take, and what makes it slow."""
        from ssmlab.ops import _native
        from ssmlab.tasks.shared.experiment import estimate_jobs

        if self.device == "cpu" and _native.MISSING:
            self.progress.say(f"note: {_native.MISSING}; {SLOWER} (see `ssmlab doctor`)")
        notes = self.data.describe.get("notes", [])
        for note in notes[:MOST_NOTES]:
            self.progress.say(f"data: {note}")
        if len(notes) > MOST_NOTES:
            self.progress.say(f"data: and {len(notes) - MOST_NOTES} more notes, which the report has")
        left = [job for job in self.jobs if not (self.resume and job.finished)]
        if left:
            self.progress.say("timing a few steps")
        seconds = estimate_jobs(self.experiment, self.resolved, self.data, left)
        precisions = dict.fromkeys(self.computes[job.model.label].precision for job in left)
        names = ", ".join(dict.fromkeys(job.model.title for job in left))
        if left:
            where = f"{self.device}, {' and '.join(precisions)}"
            self.progress.say(f"training {names} on {where}: about {duration(max(1.0, seconds))}")

    def fit(self, job: Job) -> None:
        """Train and measure one model; its records are written last."""
        from ssmlab.tasks.shared.experiment import fit_job

        how = {"find_base": self.find_base, "logs": self.folder / "logs" / job.folder.name, "resume": self.resume}
        records = fit_job(self.experiment, self.resolved, self.data, job, progress=self.progress, **how)
        if self.robust:
            from ssmlab.studies.robustness.experiment import run_tests

            run_tests([job.folder], self.recipe, self.folder / "robustness", self.progress, write=False)
        stamped = [
            record
            for split, rows in records.items()
            for record in self.stamp.on(rows, model=job.model.label, seed=job.seed, split=split)
        ]
        write_records(job.folder / "records.jsonl", stamped)
        shutil.rmtree(job.checkpoints, ignore_errors=True)

    def describe(self, finished: str | None = None) -> None:
        """Write run.json, and records.jsonl of what is finished."""
        previous = read_json(self.folder / "run.json")
        done = [job for job in self.jobs if job.finished]
        records = [record for job in done for record in read_records(job.folder / "records.jsonl")]
        write_records(self.folder / "records.jsonl", records + (self.compared() if finished else []))
        content = {
            "name": self.recipe.name,
            "task": self.recipe.task,
            "description": self.recipe.description,
            "trial": self.recipe.trial,
            "data": self.data.describe,
            "models": [self._model(model, records) for model in self.recipe.models],
            **{key: getattr(self.stamp, key) for key in ("command", "commit", "machine", "versions")},
            "started": previous.get("started") or now(),
            "finished": finished,
            "seeds": self.recipe.seeds,
        }
        write_json(self.folder / "run.json", content)

    def _model(self, model: Any, records: list[Record]) -> dict:
        measured = {record.metric: record.value for record in records if record.model == model.label}
        return {
            "name": model.name,
            "label": model.label,
            "title": model.title,
            "weights": bool(getattr(model, "weights", "") or getattr(model, "pretrained", False) or self._start),
            "tokens": measured.get("tokens"),
            "parameters": measured.get("parameters"),
            "folder": f"models/{model.label}",
        }

    def finish(self) -> None:
        """Compare the models, write what the report needs, and the report."""
        if self.experiment.finish is not None:
            self.experiment.finish(self.resolved, self.data, self.jobs, self.folder)
        if self.robust:  # one table of all models; what they predicted is in files already
            from ssmlab.studies.robustness.experiment import run_tests

            folders = [job.folder for job in self.jobs]
            run_tests(folders, self.recipe, self.folder / "robustness", Progress(), write=True)
        self.describe(finished=now())
        from ssmlab.reports.html import write_report

        write_report(self.folder, report_of)

    def compared(self) -> list[Record]:
        """The differences of every two models on the test part."""
        if self.experiment.compare is None:
            return []
        seed = self.recipe.seeds[0] if len(self.recipe.seeds) == 1 else None
        return [
            record
            for pair, difference in self.experiment.compare(self.resolved, self.data, self.jobs)
            for record in self.stamp.on([difference], model=pair, split="test", seed=seed)
        ]


def run_base(recipe: Any, output: Path, progress: Any, overwrite: bool = False) -> Path | None:
    """Train the model that a recipe starts from, or find it, and let the recipe's models start from it.

    Args:
        overwrite: train it again; otherwise a run that is there goes on, or is taken as it is.
    Returns:
        the folder of its run; None where the recipe names none.
    """
    config = recipe.base
    if not (config.recipe or config.weights):
        return None
    if config.weights:
        folder = Path(config.weights)
        if not (folder / "run.json").is_file():
            raise RecipeError(f"base.weights={folder}: no run.json there; give the folder of a finished run")
    else:
        name = f"{recipe.name}-base"
        own = [f"data.path={config.data}"] if config.data else []
        own += [f"name={name}", f"device={recipe.device}"]
        base = load_recipe(config.recipe, [*config.overrides, *own], smoke=config.smoke)
        folder = run_recipe(base, output=output, resume=not overwrite, overwrite=overwrite, progress=progress)
    models = sorted(file.parent for file in folder.glob("models/*/model.safetensors"))
    if not models:
        raise RecipeError(f"{folder} has no trained model to start from")
    config.weights = str(folder)
    source = json.loads((models[0] / "config.json").read_text("utf-8"))
    for model in recipe.models:
        if not (model.weights or getattr(model, "pretrained", False)):
            model.weights = str(models[0])
            picture = "image_size" in source.get("config", {})  # models of sequences have the options of their folder
            if picture and model.name == source.get("model") and not model.options:
                given = ("num_classes", "image_size", "in_chans")
                sizes = {**source["config"].get("options", {}), **source["config"]}
                model.options = {name: value for name, value in sizes.items() if name not in (*given, "options")}
    return folder
