"""Classifiers of images for `ssmlab compress`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.checkpoints.folder import save_model
from ssmlab.core import formats
from ssmlab.core.record import Record
from ssmlab.studies.compare import measure
from ssmlab.studies.compress.kinds import Kind, Terms
from ssmlab.tasks.classify.data import load_images
from ssmlab.tasks.classify.experiment import dataset_of
from ssmlab.tasks.classify.recipe import Recipe
from ssmlab.training.dataset import BatchedDataset


class Images(Kind):
    """A vision model, by its folder or by name."""

    terms = Terms(
        item="image",
        suffix="",
        speed="images_per_second",
        train_speed="train_images_per_second",
        quality={"accuracy": ("Accuracy", formats.percent), "loss": ("Loss, nats", formats.decimal(3))},
        higher_is_better=True,
    )

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.images = self._read()
        classes = tuple(self.images.classes) if self.images else tuple(map(str, range(1000)))
        size, device = self.options.image_size, self.compute.device
        self.dense = measure.with_reason(self.ref.label, lambda: measure.build(self.ref, classes, size, device))
        self.network, self.task = self.dense.network, self.dense.task
        self.size = {"image_size": self.dense.image_size}
        self.unmeasured = "no --data" if self.images is None else self.dense.unmeasured
        self.kept = self.dense.unmeasured is None

    def _read(self) -> Any:
        """The parts of the data, whose classes a trained model must know; None without data."""
        options, known = self.options, self.ref.preprocess
        if options.data is None:
            return None
        size = known["image_size"] if known else options.image_size or 32
        table = {"path": options.data, "image_size": size, "limit": options.limit, "labels": options.labels}
        table["fit"] = (known or {}).get("fit", "crop")
        self.recipe = Recipe.model_validate(
            {
                "data": table | ({"group": options.group} if options.group else {}),
                "training": options.training,
                "models": [{"name": self.ref.name}],
            }
        )
        images = load_images(self.recipe, self.progress)
        if images.stream is not None:
            self.progress.say(f"note: of a stream the {len(images.train.labels):,} images in memory are trained on")
        for note in images.describe["notes"]:
            self.progress.say(f"data: {note}")
        self.same_classes(images.classes)
        return images

    def _built(self, label: str, network: nn.Module) -> measure.Built:
        return replace(self.dense, network=network, ref=replace(self.ref, label=label, title=label))

    @property
    def example(self) -> Tensor:
        return self.dense.batch(1, self.compute.device)

    def counts(self, network: nn.Module) -> list[Record]:
        return measure.counts(self._built("", network), self.compute.device)

    def inference(self, networks: dict[str, nn.Module]) -> dict[str, list[Record]]:
        return self._timed(measure.inference, networks)

    def training(self, networks: dict[str, nn.Module]) -> dict[str, list[Record]]:
        return self._timed(measure.training, networks)

    def _timed(self, what: Any, networks: dict[str, nn.Module]) -> dict[str, list[Record]]:
        models = [self._built(label, network) for label, network in networks.items()]
        return what(models, self.options.batch, self.options.repeats, self.compute.device, self.progress)

    def test(self, label: str, network: nn.Module) -> list[Record]:
        part, classes = self.images.test, tuple(self.images.classes)
        built, device = self._built(label, network), self.compute.device
        images, labels = part.images, part.labels
        logits = measure.predicted(built, images, labels, classes, self.options.batch, device, self.progress)
        return [
            row for row in measure.quality(logits, labels, classes, part.groups) if row.metric in self.terms.quality
        ]

    def parts(self) -> tuple[BatchedDataset, BatchedDataset]:
        own = list(self.task.classes)
        order = torch.tensor([own.index(name) for name in self.images.classes])  # the model may have another order
        train, val = (dataset_of(part) for part in (self.images.train, self.images.val))
        for part in (train, val):
            part.arrays["labels"] = order[part.arrays["labels"]]
        return train, val

    def save(self, network: nn.Module, folder: Path) -> None:
        task = self.task
        how = self.ref.preprocess or {
            "image_size": self.dense.image_size, "fit": self.dense.fit, "mean": list(task.mean), "std": list(task.std),
            "classes": list(task.classes), "channels": 3,
        }  # fmt: skip
        save_model(network, folder, how)
