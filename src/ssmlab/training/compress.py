"""A trained model with factorised layers, at several ranks: what that costs and saves, before and after fine-tuning."""

import copy
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ssmlab.errors import UserError
from ssmlab.reports.record import Record
from ssmlab.training.compare.subjects import Subject, find_subjects
from ssmlab.training.outputs import write_json
from ssmlab.training.progress import Progress
from ssmlab.training.recipe import Recipe

MARK = "compress.json"  # the file that says a folder holds the results of this command
DENSE, BEFORE, AFTER = "dense", "before fine-tuning", "after fine-tuning"
ENERGIES = (0.5, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is compressed and measured.

    Args:
        rule: "rank", "energy" or "flops"; `values` its settings, each of which makes a model.
        targets: linear layers, by their names' last part or pattern. residual_rank: of the side path.
        data: a path as in a recipe's data.path; without it nothing is tested or trained. `group`, `labels`: as there.
        limit: at most so many images of each part; 0 takes all.
        epochs: of fine-tuning, of the dense model too; 0 leaves it out. learning_rate: its highest.
        image_size, batch, repeats, threads, device, train, weights: as of a comparison.
    """

    rule: str = "energy"
    values: tuple[float, ...] = ENERGIES
    targets: tuple[str, ...] = ("in_proj",)
    residual_rank: int = 0
    data: str | None = None
    group: str | None = None
    labels: str = "fine"
    limit: int = 0
    epochs: int = 3
    learning_rate: float = 3e-4
    image_size: int | None = None
    batch: int = 32
    repeats: int = 10
    threads: int = 0
    device: str = "auto"
    train: bool = True
    weights: tuple[str, ...] = ()


def compress(
    model: str,
    options: Options,
    *,
    output: Path | None = None,
    runs: Path = Path("runs"),
    command: str | None = None,
    progress: Progress | None = None,
):
    """Factorise a model by every setting and write records.jsonl, table.md, plots, models and report.html.

    Args:
        model: a trained vision model's folder, a run with one model, a name of the table, or timm/<name>.
        output: the folder; `runs/compress-<model>` if None.
    Returns:
        the `compress_page.Result`.
    Raises:
        UserError: the model, a target, a setting, the data or the folder is not in order.
    """
    progress = progress or Progress()
    subjects = find_subjects([model], options.weights, runs)
    if len(subjects) > 1:
        raise UserError(f"{model} has {len(subjects)} models; name one: {', '.join(str(s.folder) for s in subjects)}")
    subject = subjects[0]
    folder = _check_folder(output or runs / f"compress-{subject.label.replace('/', '-')}")
    from ssmlab.training.compress_page import write_result

    result = _Work(subject, options, folder, command, progress).result()
    write_result(result)
    return result


def _check_folder(folder: Path) -> Path:
    if folder.exists() and not (folder.is_dir() and ((folder / MARK).is_file() or not any(folder.iterdir()))):
        raise UserError(f"{folder} holds something else than results of ssmlab compress; give another --output")
    return folder


class _Work:
    """One call of the command; torch is imported from here on."""

    def __init__(self, subject: Subject, options: Options, folder: Path, command: str | None, progress: Progress):
        import torch

        from ssmlab.training.device import choose_placement

        self.subject, self.options, self.folder, self.progress = subject, options, folder, progress
        self.placement = choose_placement(options.device, "float32", "no")
        self.command = command or " ".join(sys.argv)
        if options.threads:
            torch.set_num_threads(options.threads)
        self.records: dict[str, list[Record]] = {}

    def result(self):
        from ssmlab.adapt.factorize import factorize
        from ssmlab.adapt.spectrum import spectra
        from ssmlab.training.compare import measure
        from ssmlab.training.compress_page import Result
        from ssmlab.training.environment import Stamp, commit, machine, now, versions

        started, options, device = now(), self.options, self.placement.device
        images = self._images()
        classes = tuple(images.classes) if images else tuple(map(str, range(1000)))
        dense = measure.with_reason(
            self.subject.label, lambda: measure.build(self.subject, classes, options.image_size, device)
        )
        dense = replace(dense, subject=replace(self.subject, label=DENSE, title=DENSE))
        layers = spectra(dense.network, options.targets, dense.batch(1, device))
        built, replaced = [dense], {DENSE: []}
        for value in options.values:
            label = f"{options.rule} {value:g}"
            network = copy.deepcopy(dense.network)
            replaced[label] = factorize(
                network, **{options.rule: value}, residual_rank=options.residual_rank, decomposed=layers
            )
            built.append(replace(dense, network=network, subject=replace(dense.subject, label=label, title=label)))
        self._costs(built, replaced)
        if images is not None and dense.unmeasured is None:
            self._quality(built, images)
        for model in built:
            self._save(model)
        if options.train:
            for label, rows in measure.training(built, options.batch, options.repeats, device, self.progress).items():
                self.records[label] += rows
        stamp = Stamp(
            run=self.folder.name,
            task="compress",
            command=self.command,
            commit=commit(),
            machine=machine(device),
            versions=versions(),
        )
        records = [record for label, rows in self.records.items() for record in stamp.on(rows, model=label)]
        reason = "no --data" if images is None else dense.unmeasured
        settings = asdict(options) | {"device": device, "image_size": dense.image_size}
        return Result(
            folder=self.folder,
            subject=self.subject,
            records=records,
            spectra={layer.name: layer.shares.tolist() for layer in layers},
            replaced=replaced,
            unmeasured=reason,
            settings=settings,
            stamp=stamp,
            started=started,
            finished=now(),
        )

    def _images(self):
        """The parts of the data, whose classes a trained model must know; None without data."""
        options, known = self.options, self.subject.preprocess
        if options.data is None:
            return None
        from ssmlab.training.images import load_images

        size = known["image_size"] if known else options.image_size or 32
        table = {"path": options.data, "image_size": size, "limit": options.limit, "labels": options.labels}
        training = {"epochs": max(options.epochs, 1), "learning_rate": options.learning_rate}
        self.recipe = Recipe.model_validate(
            {
                "data": table | ({"group": options.group} if options.group else {}),
                "training": training | {"batch_size": options.batch, "weight_decay": 0.05},
                "models": [{"name": self.subject.name}],
            }
        )
        images = load_images(self.recipe, self.progress)
        if known and set(known["classes"]) != set(images.classes):
            raise UserError(
                f"{self.subject.label} was trained on {', '.join(known['classes'][:4])}, ..., {options.data} has "
                f"{', '.join(images.classes[:4])}, ...; give the data that it was trained for, or none"
            )
        return images

    def _costs(self, built: list[Any], replaced: dict) -> None:
        from ssmlab.training.compare import measure

        device = self.placement.device
        for model in built:
            rows = measure.counts(model, device)
            for each in replaced[model.label]:
                rows += [
                    Record(metric="rank", value=each.rank + each.residual_rank, unit="count", class_=each.name),
                    Record(metric="energy", value=each.energy, unit="fraction", class_=each.name),
                ]
            self.records[model.label] = rows
        timed = measure.inference(built, self.options.batch, self.options.repeats, device, self.progress)
        for label, rows in timed.items():
            self.records[label] += rows

    def _quality(self, built: list[Any], images: Any) -> None:
        """Accuracy on the test part before and after fine-tuning; the networks are fine-tuned by it."""
        from ssmlab.training.compare import measure

        classes, device, batch = tuple(images.classes), self.placement.device, self.options.batch

        def test(model: Any, when: str) -> None:
            rows = measure.accuracy(
                model, images.test.images, images.test.labels, classes, batch, device, self.progress
            )
            kept = [row for row in rows if row.metric in ("accuracy", "loss")]
            self.records[model.label] += [replace(row, split="test", class_=when) for row in kept]

        for model in built:
            test(model, BEFORE)
            if self.options.epochs:
                self.records[model.label].append(self._fine_tune(model, images))
                test(model, AFTER)

    def _fine_tune(self, model: Any, images: Any) -> Record:
        import tempfile

        import torch

        from ssmlab.training import trainer

        own = list(model.task.classes)
        order = torch.tensor([own.index(name) for name in images.classes])  # the model may know them in another order

        def served(part):
            return trainer.Images(
                torch.from_numpy(part.images).permute(0, 3, 1, 2), order[torch.from_numpy(part.labels)]
            )

        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            trained = trainer.train(
                model.network,
                model.task,
                self.recipe.training,
                served(images.train),
                served(images.val),
                folder=Path(folder),
                label=model.label,
                seed=0,
                placement=self.placement,
                progress=self.progress,
            )
        model.network.eval()
        return Record(metric="train_seconds", value=trained.seconds, unit="seconds", n=trained.steps)

    def _save(self, model: Any) -> None:
        """The model's folder, which every command opens; of a network with random weights there is nothing to keep."""
        if model.unmeasured is not None or model.label == DENSE:
            return
        from ssmlab.models import save_model

        task = model.task
        how = self.subject.preprocess or {
            "image_size": model.image_size, "mean": list(task.mean), "std": list(task.std),
            "classes": list(task.classes), "channels": 3,
        }  # fmt: skip
        save_model(model.network, self.folder / "models" / model.label.replace(" ", "-"), how)


def write_mark(folder: Path, content: dict) -> None:
    """The file that says what this folder is."""
    write_json(folder / MARK, content)
