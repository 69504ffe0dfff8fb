"""A run: data, models on the same splits and seeds, evaluation, costs, records and report.

Nothing heavy is imported before the recipe, the folder and all data have been checked.
"""

import json
import os
import shutil
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

from ssmlab.core.checksums import FILE as CHECKSUMS
from ssmlab.core.checksums import damages, write_checksums
from ssmlab.core.errors import RecipeError, UserError
from ssmlab.core.files import records_text, write_atomically
from ssmlab.core.progress import Progress, duration
from ssmlab.core.record import Record, read_records
from ssmlab.core.stamp import Stamp, commit, machine, now, versions
from ssmlab.core.world import ALONE, World
from ssmlab.experiments.folder import (
    PAGE_DUE,
    check_folder,
    claim,
    drop_replaced,
    is_finished,
    is_run,
    make_folder,
    remove_leftovers,
    run_info,
)
from ssmlab.experiments.jobs import base_task, jobs_of
from ssmlab.experiments.options import FolderOptions
from ssmlab.experiments.published import fetch_published
from ssmlab.experiments.together import agreed, connect
from ssmlab.reports.run_folder import damaged_files
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.shared.folds import fold_jobs, view_of, write_splits
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
    """Train, test and compare the models of a recipe; of a launcher such as torchrun all processes together.

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
    world = connect(recipe)
    if world.rank:
        return _follow(recipe, output, world)
    with claim(output / recipe.name, progress, overwrite=overwrite) as folder:
        check_folder(recipe, output, resume=resume, overwrite=overwrite)
        there = (folder / "recipe.toml").is_file()  # else one was killed before it began
        resume = there and (resume or (not overwrite and is_run(folder)))  # the same command goes on by itself
        jobs = jobs_of(recipe, folder)
        again = tuple(f"{job.folder}{os.sep}" for job in jobs if not job.finished)  # will be trained, whatever is there
        for what in damaged_files(folder) if resume else ():
            if not what.startswith(again):
                raise UserError(
                    f"{what}; put it back, start again with --overwrite, or delete the folder of that model, which "
                    "--resume then trains again"
                )
        over = resume and is_finished(folder) and not again
        agreed(world, None if over else resume, folder)
        if over:
            if (folder / PAGE_DUE).is_file():  # it was killed there
                write_page(folder)
            progress.say(f"{folder} is finished already")
            return folder
        data = _load(recipe, folder, resume, overwrite, progress, accept_licence, world)
        run = Run(recipe, folder, data, resume, command, progress, world)
        run.announce()
        make_folder(recipe, folder, overwrite=overwrite)
        write_splits(data, folder)
        run.all([job.finished for job in run.jobs])
    return folder


def write_page(folder: Path) -> None:
    """Write the report of a finished run, after which nothing is due any more."""
    from ssmlab.reports.html import write_report

    remove_leftovers(folder)
    write_report(folder, report_of)
    (folder / PAGE_DUE).unlink(missing_ok=True)


def _follow(recipe: AnyRecipe, output: Path, world: World) -> Path:
    """What every process but the first does: compute its share of all. What it writes is thrown away.

    Returns:
        the folder of the run, which is the first process'.
    """
    resume, folder = agreed(world, None, None)
    if resume is None:
        return folder
    with tempfile.TemporaryDirectory() as place:
        data = _load(recipe, Path(place) / recipe.name, False, False, Progress(), False, world)
        run = Run(recipe, Path(place) / recipe.name, data, resume, None, Progress(), world)
        run.all([])
    return folder


def _load(recipe, folder, resume, overwrite, progress, accept_licence, world) -> Any:
    """The data of a run, and before them all that can be wrong without them."""
    if recipe.device not in ("auto", "cpu"):  # these are always there; others are checked before data are read
        from ssmlab.core.device import choose_compute

        choose_compute(recipe.device, "float32")
    if world.rank:
        agreed(world)  # the first process has fetched it
    fetch_published(recipe, accept_licence)
    if not world.rank:
        agreed(world)
    if recipe.base.recipe or recipe.base.weights:
        run_base(recipe, folder.parent, progress, overwrite)
    data = load_data(recipe, progress)
    before = run_info(folder).get("data", {}).get("split_hash") if resume else None
    if before not in (None, data.describe["split_hash"]):
        raise UserError(
            f"{folder}: the {data.describe.get('items', 'images')} or their parts are not those that the run was "
            "started with; put them back, or start again with --overwrite"
        )
    return data


class Run:
    """A run under way. Results live in files, so that a resumed run goes on from those of the interrupted one."""

    def __init__(self, recipe, folder, data, resume, command, progress, world=ALONE):
        from ssmlab.tasks.shared.experiment import compute_of

        self.recipe, self.folder, self.data = recipe, folder, data
        self.resume, self.progress, self.world = resume, progress, world
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

    def all(self, finished: list[bool]) -> None:
        """Train and measure every model that is not finished, then compare them; the first process does so alone.

        Args:
            finished: for every job, as the first process knows it.
        """
        first = self.world.rank == 0
        (finished,) = agreed(self.world, finished)
        if first:
            self.describe()
        for job, done in zip(self.jobs, finished, strict=True):
            parts = fold_jobs(job, self.data)
            (over,) = agreed(self.world, [each.finished for each in parts])
            for each, ended in [(job, True)] if done else zip(parts, over, strict=True):
                if ended:
                    self._check(each)
                    self.progress.say(f"{each.label}: finished already")
                else:
                    self.fit(each)
                    if first:
                        drop_replaced(self.folder)
            if parts != [job] and not done and first:
                self.pool(job, parts)
            if first:
                self.describe()
        if first:
            self.finish()
        agreed(self.world, None)  # all is written

    def _check(self, job: Job) -> None:
        """That a fold which an earlier process has finished is as it was written.

        Raises:
            UserError: a file of it is damaged.
        """
        for what in damages(job.folder) if job.fold is not None else ():
            raise UserError(f"{what}; delete {job.folder}, which is then trained again")

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
        whole = [job for job in self.jobs if not (self.resume and job.finished)]
        left = [part for job in whole for part in fold_jobs(job, self.data) if not (self.resume and part.finished)]
        if left:
            self.progress.say("timing a few steps")
        seen = view_of(left[0], self.data) if left else self.data  # a fold takes as long as another
        seconds = estimate_jobs(self.experiment, self.resolved, seen, left)
        precisions = dict.fromkeys(self.computes[job.model.label].precision for job in left)
        names = ", ".join(dict.fromkeys(job.model.title for job in left))
        if left:
            where = f"{self.device}, {' and '.join(precisions)}"
            about = f": about {duration(max(1.0, seconds))}" if seconds else ""
            self.progress.say(f"training {names} on {where}{about}")

    def fit(self, job: Job) -> None:
        """Train and measure one model; its records are written last."""
        from ssmlab.tasks.shared.experiment import fit_job

        (job.folder / CHECKSUMS).unlink(missing_ok=True)  # its files are written again
        logs = self.folder / "logs" / job.label.replace(" ", "_")
        how = {"find_base": self.find_base, "logs": logs, "resume": self.resume}
        data = view_of(job, self.data)
        job.folder.mkdir(parents=True, exist_ok=True)
        if self.world.size == 1:
            records = fit_job(self.experiment, self.resolved, data, job, progress=self.progress, **how)
        else:
            from ssmlab.training.distributed import explained, sharing

            with explained(self.world), sharing(self.world):
                records = fit_job(self.experiment, self.resolved, data, job, progress=self.progress, **how)
        if self.world.rank:
            shutil.rmtree(job.folder)
            return
        if self.robust:
            from ssmlab.studies.robustness.experiment import run_tests

            run_tests([job.folder], self.recipe, self.folder / "robustness", self.progress, write=False)
        self._write(job, records)
        shutil.rmtree(job.checkpoints, ignore_errors=True)

    def pool(self, job: Job, parts: list[Job]) -> None:
        """What the folds of a model predicted, as one table and one set of records; and the mean of them as a model."""
        (job.folder / CHECKSUMS).unlink(missing_ok=True)
        records = self.experiment.pool(self.resolved, self.data, job, parts, self.progress)
        self._write(job, records)

    def _write(self, job: Job, records: dict[str | None, list[Record]]) -> None:
        """Write the records of a model, after which it counts as finished."""
        stamped = [
            record
            for split, rows in records.items()
            for record in self.stamp.on(rows, model=job.model.label, seed=job.seed, split=split)
        ]
        passing = {path.name for path in job.passing}  # of the job's folds too
        own = [p for p in job.folder.rglob("*") if p.is_file() and passing.isdisjoint(p.relative_to(job.folder).parts)]
        names = {path.relative_to(job.folder).as_posix(): path for path in own if path.name != CHECKSUMS}
        text = records_text(stamped)
        write_checksums(job.folder, names, {"records.jsonl": text})
        write_atomically(job.folder / "records.jsonl", text)

    def describe(self, finished: str | None = None) -> None:
        """Write run.json, and records.jsonl of what is finished."""
        previous = run_info(self.folder)
        done = [job for job in self.jobs if job.finished]
        records = [record for job in done for record in read_records(job.folder / "records.jsonl")]
        text = records_text(records + (self.compared() if finished else []))
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
            "seeds": self.recipe.replicates,
        }
        about = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        if finished:
            own = [path for path in self.folder.rglob("*") if path.is_file() and not self._is_made_again(path)]
            names = {path.relative_to(self.folder).as_posix(): path for path in own}
            names |= {
                f"models/{job.folder.name}/{CHECKSUMS}": job.folder / CHECKSUMS
                for job in done
                if (job.folder / CHECKSUMS).is_file()
            }
            write_checksums(self.folder, names, {"records.jsonl": text, "run.json": about})
        write_atomically(self.folder / "records.jsonl", text)
        write_atomically(self.folder / "run.json", about)

    def _is_made_again(self, path: Path) -> bool:
        """Whether the run's checksums leave a file out: the page, what models have in their own, and what is hidden."""
        first = path.relative_to(self.folder).parts[0]
        return first in ("models", "logs", "plots", "report.html", CHECKSUMS) or first.startswith(".")

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
        (self.folder / PAGE_DUE).touch()
        self.describe(finished=now())
        write_page(self.folder)

    def compared(self) -> list[Record]:
        """The differences of every two models on the test part."""
        if self.experiment.compare is None:
            return []
        seed = self.recipe.seeds[0] if len(self.recipe.replicates) == 1 else None
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
        for what in damaged_files(folder):
            raise RecipeError(f"base.weights={folder}: {what}; copy the folder again, or train it again")
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
