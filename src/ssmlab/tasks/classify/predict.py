"""A trained model on new pictures. torch is imported when the first model is loaded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.errors import ModelError, UserError
from ssmlab.core.files import write_atomically
from ssmlab.core.text import csv_text
from ssmlab.data.files import Disk
from ssmlab.data.images.decode import UnreadableImage, decode, fit_square, for_each_image
from ssmlab.data.images.volumes import SliceKey, VolumePictures
from ssmlab.data.masks.volumes import is_volume
from ssmlab.tasks.shared.calibration import by_threshold, check_threshold, probabilities_of, stored_calibration


@dataclass(frozen=True)
class Prediction:
    """Probabilities of all classes for one picture or one sequence of a file.

    Args:
        label: the class that a threshold says; None: the most likely one.
    Raises:
        ModelError: one is not a number.
    """

    file: Path | str
    probabilities: np.ndarray
    label: int | None = None

    def __post_init__(self):
        if not np.isfinite(self.probabilities).all():
            raise ModelError(
                f"{self.file}: the model's answer is not a number; its weights or its preprocess.json hold NaN or "
                "infinity, train it again or copy its folder again"
            )

    def ranking(self, classes: tuple[str, ...]) -> list[tuple[str, float]]:
        """Classes with their probabilities, the predicted one first, then the most likely ones."""
        order = np.argsort(-self.probabilities, kind="stable")
        if self.label is not None:
            order = np.array([self.label, *order[order != self.label]])
        return [(classes[i], float(self.probabilities[i])) for i in order]


@dataclass(frozen=True)
class Meaning:
    """What the logits of a classifier say.

    Args:
        calibration: see `tasks.shared.calibration`; None: as they are.
        threshold: whether the class is by its threshold.
        several: whether a picture may have several labels, whose probabilities are each its own.
    """

    classes: tuple[str, ...]
    calibration: Mapping[str, Any] | None = None
    threshold: bool = False
    several: bool = False

    @staticmethod
    def of(
        about: Mapping[str, Any], classes: tuple[str, ...], model: str, *, calibrated: bool, threshold: bool
    ) -> "Meaning":
        """Of a model, by its preprocess.json.

        Raises:
            UserError: a calibration is asked for that it does not hold, or a threshold of more than two classes.
        """
        several = bool(about.get("several"))
        if not (calibrated or threshold):
            return Meaning(classes, several=several)
        found = stored_calibration(about, model)
        if threshold:
            check_threshold(found, classes)
        return Meaning(classes, found, threshold, several)

    def predictions(
        self, files: Sequence[Path | str], logits: np.ndarray, rows: Sequence[int] | None = None
    ) -> list[Prediction]:
        """A prediction for every file, of logits (n, classes).

        Args:
            rows: of every file, such as the slices of a volume, whose mean probabilities are its own; None: 1.
        """
        likely = probabilities_of(logits, self.calibration, several=self.several)
        if rows is not None:
            likely = np.stack([part.mean(0) for part in np.split(likely, np.cumsum(rows)[:-1])])
        said: Sequence[int | None] = [None] * len(files)
        if self.threshold and self.calibration is not None:
            said = by_threshold(likely, self.calibration, self.classes).tolist()
        return [Prediction(*each) for each in zip(files, likely, said, strict=True)]


class Classifier:
    """A model that `save_model` wrote, or one with published weights, with the preprocessing that it was trained with.

    Args:
        folder: of the model; or a name of `models.catalogue` or timm/<name>, whose published weights are downloaded
            where they are not on this machine.
        accept_licence: accept their licence, where that is needed.
        calibrated: probabilities at the temperature that the validation part said.
        threshold: of two classes the predicted one by the threshold that it said; probabilities are calibrated then.
    Raises:
        ModelError: the folder is incomplete, or the model is no classifier.
        UserError: it holds no calibration.
    """

    def __init__(
        self, folder: Path | str, device: str = "auto", *, accept_licence: bool = False, calibrated: bool = False,
        threshold: bool = False,
    ):  # fmt: skip
        from ssmlab.checkpoints.folder import load_model
        from ssmlab.core.device import choose_compute
        from ssmlab.tasks.classify.several import ClassifySeveral
        from ssmlab.tasks.classify.task import Classify

        folder = Path(folder)
        found = load_model(folder, "vision") if folder.exists() else published_network(str(folder), accept_licence)
        network, preprocess = found
        self.notes: list[str] = []  # what the user should know of the files, filled by `classify`
        self.compute = choose_compute(device, "float32")
        self.network = network.to(self.compute.device)
        try:
            self.classes = tuple(preprocess["classes"])
            self.image_size, self.fit = int(preprocess["image_size"]), preprocess.get("fit", "crop")
            self.whole = max(self.image_size, round(self.image_size / (preprocess.get("crop_pct") or 1.0)))
            self.window, self.slices = preprocess.get("window"), preprocess.get("slices") or 1
            self.several = bool(preprocess.get("several"))
            task = Classify(classes=self.classes, mean=tuple(preprocess["mean"]), std=tuple(preprocess["std"]))
            self.task: Any = ClassifySeveral(images=task) if self.several else task
        except (KeyError, TypeError) as error:
            raise ModelError(f"{folder / 'preprocess.json'} lacks {error}; train the model again") from None
        self.meaning = Meaning.of(preprocess, self.classes, str(folder), calibrated=calibrated, threshold=threshold)

    def classify(self, files: list[Path], batch_size: int = 32) -> Iterator[tuple[list[Prediction], list[str]]]:
        """Predictions and problems, a batch of files at a time."""
        for start in range(0, len(files), batch_size):
            yield self._batch(files[start : start + batch_size])

    def _batch(self, files: list[Path]) -> tuple[list[Prediction], list[str]]:
        import torch

        from ssmlab.training.dataset import BatchedDataset
        from ssmlab.training.predict import predict

        pictures: dict[int, list[np.ndarray]] = {}
        window = (self.window[0], self.window[1]) if self.window else None
        volumes = VolumePictures(Disk(), None, window)

        start = (self.whole - self.image_size) // 2
        middle = slice(start, start + self.image_size)

        def keep(i, found):
            if found[0].info["frames"] > 1:
                self.notes.append(
                    f"{files[i]}: of its {found[0].info['frames']} frames or pages only the first is used"
                )
            pictures[i] = [np.asarray(fit_square(each, self.whole, self.fit))[middle, middle] for each in found]

        def load(file: Path):
            name = str(file)
            try:
                if is_volume(name):
                    return [volumes(SliceKey((name,), i, self.slices)) for i in range(self.slices)]
                return [decode(file.read_bytes(), window)]
            except OSError as error:
                raise UnreadableImage(error.strerror or str(error)) from error

        failures = for_each_image(load, files, keep)
        problems = [f"{files[i]}: cannot be read ({reason}); replace the file" for i, reason in failures]
        if not pictures:
            return [], problems
        readable = [files[i] for i in sorted(pictures)]
        rows = [len(pictures[i]) for i in sorted(pictures)]  # slices of a volume
        images = torch.from_numpy(np.stack([one for i in sorted(pictures) for one in pictures[i]])).permute(0, 3, 1, 2)
        part = BatchedDataset({"images": images, "labels": torch.zeros(len(images))})
        found = predict(self.network, self.task, part, batch_size=len(images), compute=self.compute)
        return self.meaning.predictions(readable, found.values, rows), problems


def published_network(name: str, accept_licence: bool):
    """A network with the weights that its authors publish, and its preprocessing."""
    from ssmlab.models import create_model
    from ssmlab.models.catalogue import CLASSES, class_names, find_weights
    from ssmlab.models.entry import TIMM

    row = find_weights(name)
    if row is None and not name.startswith(TIMM):
        raise ModelError(f"there is no model {name}, and no weights are published under that name")
    classes = "imagenet-1k" if row is None else row.classes
    if not classes:
        raise ModelError(f"{name} is a language model, which has no classes; `ssmlab generate` writes with it")
    network: Any = create_model(name if row is None else row.models[0], pretrained=True, accept_licence=accept_licence)
    cfg = dict(network.default_cfg)
    if cfg["num_classes"] != CLASSES[classes]:
        raise ModelError(f"nothing says what the {cfg['num_classes']} outputs of {name} mean")
    kept = {key: cfg[key] for key in ("mean", "std", "crop_pct")}
    return network.eval(), kept | {"image_size": cfg["input_size"][-1], "classes": class_names(classes)}


def write_table(path: Path, rows: list[Prediction], classes: tuple[str, ...]) -> None:
    """CSV with the columns file, predicted, probability and `p:<class>`."""
    lines: list[list] = [["file", "predicted", "probability", *(f"p:{name}" for name in classes)]]
    for row in rows:
        best, probability = row.ranking(classes)[0]
        numbers = [f"{p:.6g}" for p in row.probabilities]
        lines.append([row.file, best, f"{probability:.6g}", *numbers])
    try:
        write_atomically(path, csv_text(lines))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give another --csv file") from None
