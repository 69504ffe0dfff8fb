"""What `ssmlab compress` needs of a kind of model, and which kind a command names."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmlab.checkpoints.find import SEQUENCES, model_folders, read_object
from ssmlab.checkpoints.find import kind_of as kind_in
from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.models.entry import TIMM
from ssmlab.models.registry import describe, kind_of
from ssmlab.studies.compare.model_refs import ModelRef, find_model_refs

IMAGES, TEXTS, CLASSIFIER = "images", "texts", "classifier"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the numbers of a kind of model are called.

    item: what is counted and timed, such as "image"; suffix: of the costs' metrics.
    speed, train_speed: metrics, of items a second.
    quality: by metric its name and how it is written; the first one is the primary metric.
    """

    item: str
    suffix: str
    speed: str
    train_speed: str
    quality: Mapping[str, tuple[str, Callable[[float], str]]]
    higher_is_better: bool

    @property
    def primary_metric(self) -> str:
        """The metric by which settings are judged."""
        return next(iter(self.quality))

    def better(self, value: float, than: float) -> bool:
        """Whether a value is at least as good as another one."""
        return value >= than if self.higher_is_better else value <= than


class Kind(ABC):
    """A model to be compressed, and what is measured of it. torch is imported by now.

    Args:
        options: `compress.Options`. compute: where it computes.
    Attributes:
        network: the dense one, on its device and in evaluation mode.
        unmeasured: why its quality is not measured, or None.
        kept: whether its weights are worth keeping: not where they are random.
        size: settings that the page shows.
    """

    network: Any
    task: Any
    terms: Terms
    unmeasured: str | None
    kept: bool
    size: dict[str, Any]
    recipe: Any

    def __init__(self, ref: ModelRef, options: Any, compute: Any, progress: Progress):
        self.ref, self.options, self.compute, self.progress = ref, options, compute, progress

    @property
    @abstractmethod
    def example(self) -> Any:
        """An argument of the network, for counting."""

    @abstractmethod
    def counts(self, network: Any) -> list[Record]:
        """Parameters, and operations of an item."""

    @abstractmethod
    def inference(self, networks: dict[str, Any]) -> dict[str, list[Record]]:
        """Speed of prediction, by label."""

    @abstractmethod
    def training(self, networks: dict[str, Any]) -> dict[str, list[Record]]:
        """Speed of training steps, by label. The networks are changed by it."""

    @abstractmethod
    def test(self, label: str, network: Any) -> list[Record]:
        """The metrics of `terms.quality` on the test part, the primary one with its interval."""

    @abstractmethod
    def parts(self) -> tuple[Any, Any]:
        """Training and validation part."""

    @abstractmethod
    def save(self, network: Any, folder: Path) -> None:
        """Write the model so that every command opens it."""

    def fine_tune(self, label: str, network: Any) -> Record:
        """Train a network in place; how long that took."""
        import torch

        from ssmlab.training.fit import fit

        train, val = self.parts()
        torch.manual_seed(0)
        how = {"device": self.compute, "label": label, "progress": self.progress}
        found = fit(network, self.task, train, val, self.recipe.training, **how)
        network.eval()
        return Record(metric="train_seconds", value=found.seconds, unit="seconds", n=found.steps)

    def same_classes(self, found: Any) -> None:
        """A trained classifier knows the classes of the data.

        Raises:
            UserError: it does not.
        """
        known = (self.ref.preprocess or {}).get("classes")
        if known and set(known) != set(found):
            raise UserError(
                f"{self.ref.label} was trained on {', '.join(known[:4])}, ..., {self.options.data} has "
                f"{', '.join(found[:4])}, ...; give the data that it was trained for, or none"
            )


def find_model(model: str, weights: tuple[str, ...], runs: Path) -> tuple[str, ModelRef]:
    """The kind of the model that a command names, and where it is. Nothing is built.

    Args:
        model: a trained model's folder, a run with one model, a name of the table, or timm/<name>.
        weights: a file for a vision model by name.
    Raises:
        ModelError: there is no such model. UserError: there are several.
    """
    place = next((p for p in (Path(model), runs / model) if p.exists() and not model.startswith(TIMM)), None)
    if place is None and kind_of(model) == "language":
        kind, ref = TEXTS, ModelRef(label=model, title=describe(model), name=model)
    elif place is not None and (found := [each for each in model_folders(place) if kind_in(each) in SEQUENCES]):
        if len(found) > 1:
            raise UserError(f"{model} has {len(found)} models; name one: {', '.join(map(str, found))}")
        (folder,) = found
        config, how = read_object(folder / "config.json"), folder / "preprocess.json"
        name = config.get("model") or config.get("model_type") or "mamba"
        in_run = folder.parent.name == "models"
        ref = ModelRef(
            label=f"{folder.parent.parent.resolve().name}/{folder.name}" if in_run else str(folder),
            title=describe(name) if kind_of(name) else name,
            name=name,
            folder=folder,
            preprocess=json.loads(how.read_text("utf-8")) if how.is_file() else None,
        )
        kind = CLASSIFIER if kind_in(folder) == "sequence_classifier" else TEXTS
    else:
        refs = find_model_refs([model], weights, runs)
        if len(refs) > 1:
            names = ", ".join(str(ref.folder) for ref in refs)
            raise UserError(f"{model} has {len(refs)} models; name one: {names}")
        if refs[0].several:
            raise UserError(f"{model} gives images several labels, which compress does not measure; compare does")
        return IMAGES, refs[0]
    if weights:
        raise UserError(f"--weights is for vision models by name; give the folder of {ref.name}'s weights as MODEL")
    return kind, ref
