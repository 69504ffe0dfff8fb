"""Segmentation in a run: what `Work` asks, answered for images with masks."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import nn

from ssmlab.checkpoints.folder import save_model
from ssmlab.core.errors import ModelError
from ssmlab.core.files import write_json
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.models import create_model
from ssmlab.models.segmentation.plans import Plan, plan_from, propose_plan
from ssmlab.profiling import peak_memory
from ssmlab.tasks.segment.data import Masks
from ssmlab.tasks.segment.metrics import FILE, constant_record, dice_differences, records_of
from ssmlab.tasks.segment.overlays import write_overlays
from ssmlab.tasks.segment.patches import Patches
from ssmlab.tasks.segment.predict import predict_part, slices
from ssmlab.tasks.segment.recipe import SegmentationModel, SegmentationRecipe, SegmentationTraining
from ssmlab.tasks.segment.serving import Cases, Prepared, fetched
from ssmlab.tasks.segment.start import load_body
from ssmlab.tasks.segment.task import Segment, windows_of
from ssmlab.tasks.segment.timeline import Timeline, read_seconds
from ssmlab.tasks.shared.costs import costs
from ssmlab.tasks.shared.regrid import regridded_size
from ssmlab.tasks.shared.work import Work
from ssmlab.training import fit as trainer
from ssmlab.training.parameters import freeze
from ssmlab.training.resume import contiguous

SNAPSHOTS, SECONDS = "snapshots", "seconds.json"  # in a model's folder while the run lasts; and for good
AT_EQUAL_SECONDS = "images_at_equal_seconds.csv"


class SegmentationWork(Work):
    """The work on `Masks`."""

    decides = "dice"
    recipe: SegmentationRecipe
    data: Masks

    def __init__(self, recipe: SegmentationRecipe, data: Masks):
        super().__init__(recipe, data)
        self._estimates: dict[str, float] = {}
        sizes = {
            name: config.model_copy(update={"batch_size": config.batch_size or self.plan.batch_size})
            for name, config in (("training", recipe.training), ("pretraining", recipe.pretraining))
        }
        self.recipe = recipe.model_copy(update=sizes)

    @cached_property
    def plan(self) -> Plan:
        """The recipe's, or one that is proposed from the images."""
        given, found = self.recipe.plan, self.data.found
        if not given or isinstance(given, str):
            return propose_plan(
                found.usual,
                found.spacing,
                channels=found.channels,
                classes=len(found.classes),
                batch_size=self.recipe.training.batch_size or None,
            )
        plan = plan_from(given)
        if plan.dims > found.dimensions:
            raise ModelError(f"plan: it is for images in {plan.dims}-D, data.path has images in {found.dimensions}-D")
        if plan.spacing:
            return plan
        across = self._across(self.data)
        flat = plan.dims < found.dimensions
        return replace(plan, spacing=[s for axis, s in enumerate(found.spacing) if not flat or axis != across])

    def _across(self, data: Masks) -> int:
        """The coarsest axis, across which a plan in 2-D takes the slices of volumes."""
        return data.found.spacing.index(max(data.found.spacing))

    def _spacing(self, data: Masks) -> tuple[float, ...]:
        """At which images are trained and predicted, 0 along an axis that is cut into slices; empty: as they are."""
        if not data.found.measured or self.plan.dims == data.found.dimensions:
            return self.plan.spacing if data.found.measured else ()
        across = self._across(data)
        return (*self.plan.spacing[:across], 0.0, *self.plan.spacing[across:])

    def build(self, model: SegmentationModel, seed: int) -> nn.Module:
        """With initial weights, or those of a file; `train` loads what the run itself has pretrained."""
        network = self._network(model.name, self.data, seed)
        if model.weights:
            load_body(network, Path(model.weights))
        freeze(network, self.recipe.training_of(model).freeze)
        return network

    def _network(self, name: str, data: Masks, seed: int) -> nn.Module:
        return create_model(
            name, plan=self.plan, num_classes=len(data.classes), in_chans=data.found.channels, seed=seed
        )

    def task(self, model: SegmentationModel | None, network: nn.Module | None) -> Segment:
        return self._task(self.data)

    def _task(self, data: Masks) -> Segment:
        config = self.recipe.evaluation
        windows = windows_of(
            self.plan.patch_size,
            overlap=config.overlap,
            mirror=tuple(range(self.plan.dims)) if config.mirror else (),
            batch=config.batch_size,
            across=self._across(data),
        )
        return Segment(
            classes=data.classes,
            mean=data.mean,
            std=data.std,
            windows=windows,
            fetch=partial(fetched, data.val),
            spacing=self._spacing(data),
        )

    def parts(self, model: SegmentationModel) -> tuple[Patches, "Cases"]:
        return self._patches(self.data, self.recipe.training_of(model), self.recipe.seeds[0]), Cases(len(self.data.val))

    def _patches(
        self, data: Masks, config: SegmentationTraining, seed: int, begins: Callable[[int], None] | None = None
    ) -> Patches:
        return Patches(
            Prepared(data, self._spacing(data)),
            len(data.train),
            self.plan.patch_size,
            batch_size=config.batch_size,
            steps=config.iterations // config.validations,
            seed=seed,
            foreground=config.foreground,
            augment=config.augment,
            spacing=self._spacing(data),
            across=self._across(data),
            begins=begins,
        )

    def evaluated(self, epochs: int) -> int:
        """Windows that are predicted during and after training."""
        counts, step = self.data.describe["counts"], 1 - self.recipe.evaluation.overlap
        windows = 2**self.plan.dims if self.recipe.evaluation.mirror else 1
        seen, target = self.data.found.usual, self._spacing(self.data)
        if target:
            seen = regridded_size(seen, self.data.found.spacing, target)
        if len(seen) > self.plan.dims:
            across = self._across(self.data)
            windows, seen = windows * seen[across], seen[:across] + seen[across + 1 :]
        for size, patch in zip(seen, self.plan.patch_size, strict=True):
            windows *= 1 + max(0, int(np.ceil((size - patch) / max(patch * step, 1))))
        return windows * ((epochs + 1) * counts["val"] + counts["test"])

    def estimate(self, job: Any) -> float:
        """Seconds, with those of the pretraining at the first model that needs it."""
        if job.model.label not in self._estimates:  # a seed takes as long as another
            self._estimates[job.model.label] = super().estimate(job)
        seconds = self._estimates[job.model.label]
        first = next(m for m in self.recipe.models if (m.name, m.start) == (job.model.name, job.model.start))
        if job.model.start == "scratch" or first is not job.model:
            return seconds
        before, after = self.recipe.pretraining, self.recipe.training_of(job.model)
        patches = [config.iterations * config.batch_size for config in (before, after)]
        return seconds * (1 + patches[0] / patches[1])

    def train(self, job: Any, *, logs=None, progress=None, resume=False):
        """As for any task, but first on the source where the model starts pretrained."""
        network, config = self.build(job.model, job.seed), self.recipe.training_of(job.model)
        if job.model.start == "pretrained":
            folder = self.pretrained(job, progress=progress, resume=resume)
            load_body(network, folder)
            network.requires_grad_(True)
            freeze(network, config.freeze)
        with peak_memory(self.placement(job.model).device) as peak:
            trained = self._train(network, self.data, config, job, job.folder, logs, progress, resume)
        return network, self.task(job.model, network), trained, peak

    def _train(self, network, data: Masks, config, job, folder: Path, logs, progress, resume) -> trainer.Trained:
        """Train in place; the times and, between the stretches, the weights are left in the folder."""
        if not resume:
            shutil.rmtree(folder / SNAPSHOTS, ignore_errors=True)
            (folder / SECONDS).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        timeline = Timeline(progress or Progress(), folder / SECONDS)

        def begins(step: int) -> None:
            if step:
                (folder / SNAPSHOTS).mkdir(exist_ok=True)
                save_file(contiguous(network.state_dict()), folder / SNAPSHOTS / f"{step}.safetensors")
            timeline.save()
            timeline.begin()

        try:
            trained = trainer.train(
                network,
                self._task(data),
                config,
                self._patches(data, config, job.seed, begins),
                Cases(len(data.val)),
                folder=folder / "checkpoints",
                label=folder.name,
                seed=job.seed,
                placement=self.placement(job.model),
                logs=logs,
                progress=timeline,
                resume=resume,
                gradients=folder,
            )
        finally:
            timeline.save()
        log = [{key: value for key, value in row.items() if key != "epoch"} for row in trained.log]
        write_json(folder / "log.json", log)
        for row in trained.log:
            row.pop("epoch", None)  # the reader of a curve counts iterations
        return trained

    def pretrained(self, job: Any, *, progress=None, resume=False) -> Path:
        """The folder of a network that was trained on the source, once for all models of its name and seed."""
        source = self.data.source
        assert source is not None
        folder = job.folder.parent.parent / "pretrained" / f"{job.model.name}_seed{job.seed}"
        if (folder / "pretraining.json").is_file():
            return folder
        network = self._network(job.model.name, source, job.seed)
        trained = self._train(network, source, self.recipe.pretraining, job, folder, None, progress, resume)
        save_model(network, folder, self._preprocess(source))
        dice = [row["eval_dice"] for row in trained.log if "eval_dice" in row]
        result = {"seconds": trained.seconds, "iterations": trained.steps, "dice": dice[-1] if dice else None}
        write_json(folder / "pretraining.json", result)
        for name in ("checkpoints", SNAPSHOTS):
            shutil.rmtree(folder / name, ignore_errors=True)
        return folder

    def _preprocess(self, data: Masks) -> dict[str, Any]:
        return {
            "task": "segment",
            "classes": list(data.classes),
            "channels": data.found.channels,
            "mean": list(data.mean),
            "std": list(data.std),
            "patch_size": list(self.plan.patch_size),
            "spacing": list(self._spacing(data)),
            "directions": data.found.directions,
            "numbers": list(data.found.numbers),
        }

    def validate(self, network: nn.Module, task: Segment, job: Any) -> dict[str, float]:
        found = predict_part(network, task, self.data.val, self.placement(job.model))
        return {f"val_{name}": value for name, value in found.numbers.items()}

    def measure(self, job: Any, network: nn.Module, task: Segment, progress: Progress):
        config, placement = self.recipe.evaluation, self.placement(job.model)
        save_model(network, job.folder, self._preprocess(self.data))
        self.plan.write(job.folder / "plan.toml")
        val = predict_part(network, task, self.data.val, placement)
        test = predict_part(
            network,
            task,
            self.data.test,
            placement,
            tolerance=config.tolerance,
            kept=config.samples,
            title=f"{job.folder.name}: test",
            progress=progress,
        )
        test.table.write(job.folder / FILE)
        np.savez_compressed(job.folder / "marked.npz", *test.marked)
        unit = "millimetres" if self.data.found.measured else "pixels"
        patches, _ = self.parts(job.model)
        images = patches.__getitems__([0])["images"]
        plain: Any = SimpleNamespace(prepare=lambda batch: batch)
        records: dict[str | None, list[Record]] = self._curves(job)
        records["val"] += [
            Record(metric=name, value=value, n=len(self.data.val)) for name, value in val.numbers.items()
        ]
        loss = Record(metric="loss", value=test.numbers["loss"], unit="nats", n=len(self.data.test))
        records["test"] = [loss, *records_of(test.table, config.bootstrap, unit), *constant_record(test.table)]
        records[None] = [
            *self._times(job),
            Record(metric="test_seconds", value=test.seconds, unit="seconds", n=len(self.data.test)),
            *costs(network, plain, images, config, placement),
        ]
        return records

    def _curves(self, job: Any) -> dict[str | None, list[Record]]:
        """Dice of the validation part, and the seconds of every iteration that the log names."""
        seconds, found = read_seconds(job.folder / SECONDS), {"train": [], "val": []}
        for row in json.loads((job.folder / "log.json").read_text(encoding="utf-8")):
            step, part = row["step"], "val" if "eval_dice" in row else "train"
            if step in seconds and ("loss" in row or part == "val"):
                found[part].append(Record(metric="seconds", value=seconds[step], unit="seconds", step=step))
            if part == "val":
                found[part].append(Record(metric="dice", value=row["eval_dice"], unit="fraction", step=step))
        return found

    def _times(self, job: Any) -> list[Record]:
        """Seconds of an iteration, all of them together; what the pretraining took and reached."""
        steps = read_seconds(job.folder / SECONDS)
        last = max(steps)
        found = [Record(metric="seconds_per_iteration", value=steps[last] / last, unit="seconds", n=last)]
        if job.model.start == "pretrained":
            folder = self.pretrained(job)
            before = json.loads((folder / "pretraining.json").read_text(encoding="utf-8"))
            found.append(
                Record(metric="pretraining_seconds", value=before["seconds"], unit="seconds", n=before["iterations"])
            )
            if before["dice"] is not None:
                found.append(Record(metric="pretraining_dice", value=before["dice"], unit="fraction"))
        return found

    def compared(self, jobs: list[Any]) -> list[tuple[str, Record]]:
        resamples = self.recipe.evaluation.bootstrap
        equal = dice_differences(jobs, resamples, AT_EQUAL_SECONDS, "dice_at_equal_seconds_difference")
        return dice_differences(jobs, resamples) + equal

    def finish(self, jobs: list[Any], folder: Path) -> None:
        """Pictures of the first seed, and the test part once more at the time when the fastest model was ready."""
        chosen = slices(self.data.test, self.recipe.evaluation.samples)
        said = {}
        for job in jobs:
            if job.seed == self.recipe.seeds[0]:
                with np.load(job.folder / "marked.npz") as marked:
                    said[job.model.label] = [marked[name] for name in marked.files]
        write_overlays(folder / "overlays", self.data.test, chosen, said)
        for seed in self.recipe.seeds:
            self._at_equal_seconds([job for job in jobs if job.seed == seed])

    def _at_equal_seconds(self, jobs: list[Any]) -> None:
        times = {job.folder: read_seconds(job.folder / SECONDS) for job in jobs}
        until = min(seconds[max(seconds)] for seconds in times.values())
        for job in jobs:
            seconds = times[job.folder]
            steps = [int(file.stem) for file in (job.folder / SNAPSHOTS).glob("*.safetensors")]
            in_time = [step for step in steps if seconds[step] <= until]
            if seconds[max(seconds)] <= until:
                shutil.copyfile(job.folder / FILE, job.folder / AT_EQUAL_SECONDS)
            elif in_time:
                network = self._network(job.model.name, self.data, job.seed)
                network.load_state_dict(load_file(job.folder / SNAPSHOTS / f"{max(in_time)}.safetensors"))
                placement = self.placement(job.model)
                found = predict_part(network.to(placement.device), self._task(self.data), self.data.test, placement)
                found.table.write(job.folder / AT_EQUAL_SECONDS)
            shutil.rmtree(job.folder / SNAPSHOTS, ignore_errors=True)
