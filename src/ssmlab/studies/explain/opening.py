"""The model that is explained: a trained one with its preprocessing, or a network by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssmlab.checkpoints.find import SEQUENCES, find_folder, kind_of
from ssmlab.core.device import choose_compute
from ssmlab.core.errors import UserError
from ssmlab.data.images.decode import UnreadableImage, decode, fit_square
from ssmlab.models import create_model
from ssmlab.models.catalogue import class_names
from ssmlab.models.registry import describe
from ssmlab.studies.compare.measure import why_not as unmeasured
from ssmlab.studies.compare.model_refs import find_model_refs
from ssmlab.tasks.classify.predict import Classifier
from ssmlab.tasks.classify.several import ClassifySeveral
from ssmlab.tasks.classify.task import Classify

IMAGENET_CLASSES = 1000
RANDOM = "random weights"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model that is ready to be explained.

    title: what people call it. origin: where its weights come from, in words.
    task: classes, mean and std; `prepare` makes of uint8 images what the model reads.
    image_size: side of the images. fit: how they become square.
    folder: that it came from; None for a network by name.
    doubt: why what it says decides nothing, or what is needed to know that, see `judge`.
    """

    title: str
    origin: str
    network: nn.Module
    task: Classify | ClassifySeveral
    image_size: int
    device: str
    fit: str = "crop"
    folder: Path | None = None
    doubt: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.task.classes

    @property
    def several(self) -> bool:
        """Whether an image may have several labels, each with a probability of its own."""
        return isinstance(self.task, ClassifySeveral)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of logits (b, classes)."""
        return logits.float().sigmoid() if self.several else logits.float().softmax(-1)

    @property
    def untrained(self) -> bool:
        return self.origin == RANDOM

    @property
    def grey(self) -> bool:
        """Whether its data had one channel, repeated: mean and std of all channels are the same."""
        return len(set(self.task.mean)) == len(set(self.task.std)) == 1

    def prepare(self, pictures: np.ndarray) -> Tensor:
        """Pictures (b, h, w, 3) uint8 -> what the model reads, on its device."""
        return self.task.prepare(torch.from_numpy(pictures).permute(0, 3, 1, 2).to(self.device))


def open_model(
    model: str, *, weights: str | None = None, device: str = "auto", runs: Path = Path("runs")
) -> tuple[Opened, str]:
    """The model that a command names, and where there was a choice, how it was made.

    Args:
        model: a run's folder or its name under `runs`, a trained model's folder or its weights file, a name of the
            table, or timm/<name>.
        weights: a file for a network by name; without one its weights are random.
    Raises:
        ModelError: there is no such model. UserError: a trained model is given other weights, or those of a network by
            name are for other classes than ImageNet's.
    """
    place = next((path for path in (Path(model), runs / model) if path.exists()), None)
    if place is None:
        (ref,) = find_model_refs([model], [weights] if weights else [], runs)
        compute = choose_compute(device, "float32")
        torch.manual_seed(0)  # random weights are the same from call to call
        network = create_model(ref.name, num_classes=IMAGENET_CLASSES, weights=ref.weights).eval()
        if ref.weights is not None and unmeasured(network, ref.weights):
            raise UserError(
                f"--weights {ref.weights}: these are not for ImageNet's {IMAGENET_CLASSES:,} classes, and only a "
                "trained model's folder says what others mean; give that as MODEL"
            )
        network, cfg = network.to(compute.device), dict(network.default_cfg)
        about = {"mean": cfg["mean"], "std": cfg["std"], "image_size": cfg["input_size"][-1], "fit": "crop"}
        network.preprocess_config = about | {"classes": class_names("imagenet-1k")}  # type: ignore[assignment]
        opened = Opened(
            title=describe(ref.name), origin=str(ref.weights) if ref.weights else RANDOM, network=network,
            task=Classify(classes=class_names("imagenet-1k"), mean=tuple(cfg["mean"]), std=tuple(cfg["std"])),
            image_size=int(cfg["input_size"][-1]), device=compute.device,
        )  # fmt: skip
        return opened, ""
    if weights is not None:
        raise UserError(f"--weights {weights}: {model} has weights of its own; leave the option out")
    folder, why = find_folder(place, choose=True)
    if kind_of(folder) in SEQUENCES:
        raise UserError(f"{folder} is a model of texts or other sequences; explain takes models of images")
    classifier = Classifier(folder, device)
    name = getattr(classifier.network, "registry_name", folder.name)
    opened = Opened(
        title=describe(name), origin=f"trained, {folder}", network=classifier.network, task=classifier.task,
        image_size=classifier.image_size, fit=classifier.fit, device=classifier.compute.device, folder=folder,
    )  # fmt: skip
    return opened, why


def short(name: str) -> str:
    """The first of a class's synonyms."""
    return name.split(",")[0]


def find_classes(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Classes by name, by one of their synonyms, or by index; names come first.

    Raises:
        UserError: there is no such class, with the nearest names, or several have it.
    """
    by_name: dict[str, list[int]] = {}
    for index, title in enumerate(classes):
        for synonym in {title.casefold(), *(part.strip().casefold() for part in title.split(","))}:
            by_name.setdefault(synonym, []).append(index)
    indices = []
    for name in names:
        wanted = name.strip().casefold()
        found = by_name.get(wanted, [])
        if len(found) > 1:
            several = ", ".join(f"{index} ({classes[index]})" for index in found)
            raise UserError(f"--classes {name!r} is the name of several classes; give an index: {several}")
        if not found and wanted.isdecimal() and int(wanted) < len(classes):
            found = [int(wanted)]
        if not found:
            near = get_close_matches(wanted, by_name, n=3, cutoff=0.6) or [key for key in by_name if wanted in key][:3]
            some = ", ".join(short(title) for title in classes[:8])
            some = some if len(classes) <= 8 else f"{len(classes):,}: {some}, ..."
            hint = f"did you mean {', '.join(near)}?" if near else f"there are {some}; an index, from 0, will do too"
            raise UserError(f"--classes {name!r} is no class of this model; {hint}")
        indices += found
    return list(dict.fromkeys(indices))


def read_pictures(files: Sequence[Path], size: int, fit: str = "crop") -> tuple[list[Path], np.ndarray, list[str]]:
    """The files that could be read, their pictures (n, size, size, 3) uint8, and what is wrong with the others."""
    readable, pictures, problems = [], [], []
    for file in files:
        try:
            pictures.append(np.asarray(fit_square(decode(file.read_bytes()), size, fit)))
            readable.append(file)
        except (OSError, UnreadableImage) as error:
            problems.append(f"{file}: cannot be read ({error}); replace the file")
    return readable, np.stack(pictures) if pictures else np.zeros((0, size, size, 3), np.uint8), problems
