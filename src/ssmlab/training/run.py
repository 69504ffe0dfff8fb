"""A run: data, models on the same splits and seeds, evaluation, costs, records and report.

Nothing heavy is imported before the recipe, the folder and every image have been checked.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ssmlab.errors import UserError
from ssmlab.reports.intervals import paired_bootstrap_difference
from ssmlab.reports.record import Record, read_records
from ssmlab.reports.run_folder import read_predictions
from ssmlab.training.environment import Stamp, commit, machine, now, versions
from ssmlab.training.folder import check_folder, make_folder, read_json
from ssmlab.training.images import Images, load_images
from ssmlab.training.outputs import write_json, write_records, write_samples
from ssmlab.training.progress import Progress, duration
from ssmlab.training.recipe import ModelConfig, Recipe

SLOWER = "selective scans on the CPU take the plain PyTorch path and are slower; install again with a C++ compiler"


@dataclass(frozen=True)
class Job:
    """One model with one seed, and the folder of its results."""

    model: ModelConfig
    seed: int
    folder: Path

    @property
    def finished(self) -> bool:
        return (self.folder / "records.jsonl").is_file()  # the last file that is written

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def run_recipe(
    recipe: Recipe,
    *,
    output: Path | str = "runs",
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train, test and compare the models of a recipe.

    Args:
        output: the run's folder is `output/<recipe.name>`.
        resume: continue a run that was interrupted: finished models are kept, an unfinished one goes on from its last
            complete checkpoint. Without such a run, a new one is started.
        overwrite: delete a run of this name first.
        command: what the records say was typed.
    Returns:
        the run's folder.
    Raises:
        UserError: the recipe, the data or the folder are not in order, or a loss is not finite.
        KeyboardInterrupt: the run can be resumed.
    """
    progress = progress or Progress()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("a run is one process; start it without torchrun or accelerate launch")
    folder = check_folder(recipe, Path(output), resume=resume, overwrite=overwrite)
    if resume and read_json(folder / "run.json").get("finished"):
        progress.say(f"{folder} is finished already")
        return folder
    images = load_images(recipe, progress)
    if resume:
        _same_split(folder, images)
    run = Run(recipe, folder, images, resume, command, progress)
    run.announce()
    make_folder(recipe, folder, overwrite=overwrite)
    run.describe()
    for job in run.jobs:
        if not job.finished:
            run.fit(job)
        run.describe()
    run.finish()
    return folder


def jobs_of(recipe: Recipe, folder: Path) -> list[Job]:
    """Every model with every seed; the folder carries the seed where there are several."""
    several = len(recipe.seeds) > 1
    return [
        Job(model, seed, folder / "models" / (f"{model.label}_seed{seed}" if several else model.label))
        for seed in recipe.seeds
        for model in recipe.models
    ]


class Run:
    """A run under way. Results live in files, so that a resumed run goes on from those of the interrupted one."""

    def __init__(self, recipe, folder, images, resume, command, progress):
        from ssmlab.training.device import choose_placement

        config = recipe.training
        self.recipe, self.folder, self.images = recipe, folder, images
        self.resume, self.progress = resume, progress
        self.placement = choose_placement(recipe.device, config.precision, config.channels_last)
        self.jobs = jobs_of(recipe, folder)
        self.stamp = Stamp(
            run=recipe.name,
            task=recipe.task,
            command=command or " ".join(sys.argv),
            commit=commit(),
            machine=machine(self.placement.device),
            versions=versions(),
        )

    def announce(self) -> None:
        """Say how long what is left will take, and what makes it slow."""
        from ssmlab.ops import _native
        from ssmlab.training.fit import estimate

        if self.placement.device == "cpu" and _native.MISSING:
            self.progress.say(f"note: {_native.MISSING}; {SLOWER} (see `ssmlab doctor`)")
        left = [job for job in self.jobs if not (self.resume and job.finished)]
        seconds = sum(estimate(job, self.recipe, self.images, self.placement) for job in left)
        where = f"{self.placement.device}, {self.placement.precision}"
        names = ", ".join(dict.fromkeys(job.model.title for job in left))
        if left:
            self.progress.say(f"training {names} on {where}: about {duration(max(1.0, seconds))}")

    def fit(self, job: Job) -> None:
        """Train and measure one model; its records are written last."""
        from ssmlab.training.fit import fit

        records = fit(
            job,
            self.recipe,
            self.images,
            self.placement,
            logs=self.folder / "logs" / job.folder.name,
            progress=self.progress,
            resume=self.resume,
        )
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
            "data": self.images.describe,
            "models": [self._model(model, records) for model in self.recipe.models],
            **{key: getattr(self.stamp, key) for key in ("command", "commit", "machine", "versions")},
            "started": previous.get("started") or now(),
            "finished": finished,
            "seeds": self.recipe.seeds,
        }
        write_json(self.folder / "run.json", content)

    def _model(self, model: ModelConfig, records: list[Record]) -> dict:
        measured = {record.metric: record.value for record in records if record.model == model.label}
        return {
            "name": model.name,
            "label": model.label,
            "title": model.title,
            "tokens": measured.get("tokens"),
            "parameters": measured.get("parameters"),
            "folder": f"models/{model.label}",
        }

    def finish(self) -> None:
        """Compare the models, choose the samples, write the report."""
        first = self.recipe.seeds[0]
        said = {
            job.model.label: read_predictions(job.folder / "predictions.csv").probabilities
            for job in self.jobs
            if job.seed == first
        }
        test = self.images.test
        count = self.recipe.evaluation.samples
        write_samples(self.folder / "samples", test.images, test.labels, test.ids, self.images.classes, said, count)
        self.describe(finished=now())
        from ssmlab.reports.html import write_report

        write_report(self.folder)

    def compared(self) -> list[Record]:
        """The difference of every two models' test accuracies, with its paired interval over images and seeds."""
        correct = {
            model.label: np.stack(
                [read_predictions(job.folder / "predictions.csv").correct for job in self.jobs if job.model is model]
            )
            for model in self.recipe.models
        }
        records = []
        for first, second in combinations(correct, 2):
            interval = paired_bootstrap_difference(
                correct[second], correct[first], resamples=self.recipe.evaluation.bootstrap
            )
            record = Record(
                metric="accuracy_difference",
                value=interval.value,
                unit="fraction",
                n=correct[first].shape[1],
                spread=(interval.low, interval.high),
            )
            seed = self.recipe.seeds[0] if len(self.recipe.seeds) == 1 else None
            records += self.stamp.on([record], model=f"{second} - {first}", split="test", seed=seed)
        return records


def _same_split(folder: Path, images: Images) -> None:
    before = read_json(folder / "run.json").get("data", {}).get("split_hash")
    if before not in (None, images.describe["split_hash"]):
        raise UserError(
            f"{folder}: the images or their parts are not those that the run was started with; "
            "put them back, or start again with --overwrite"
        )
