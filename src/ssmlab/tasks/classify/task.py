"""Image classification: batches of uint8 images to a loss, and logits to numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import UserError
from ssmlab.tasks.shared.augment import Augment, Mix
from ssmlab.tasks.shared.labels import class_number
from ssmlab.tasks.shared.metrics import loss_and_accuracy


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Cross-entropy on images, with augmentation and normalisation done here, on the batch.

    Args:
        classes: names in the order of the logits.
        mean, std: per channel, of images scaled to 0..1.
        label_smoothing: 0 to 1, in training only.
        class_weights: a factor per class in the training loss, or None.
        augment: applied to training batches only, or None.
        mix: blends the images of a training batch and their labels, or None.
    """

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    augment: Augment | None = None
    mix: Mix | None = None

    primary_metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def collate(self, items: list[Any]) -> dict[str, Tensor]:
        """A batch of (image, label), or of {"images": image, "labels": label}.

        Args:
            items: an image is a tensor (c, h, w) or an array (h, w, c), uint8 or float from 0 to 1, or a PIL image; a
                label is a number.
        Raises:
            UserError: the images differ in size, or a label is no class.
        """
        pairs = [(item["images"], item["labels"]) if isinstance(item, dict) else tuple(item)[:2] for item in items]
        images = [image_tensor(image) for image, _ in pairs]
        sizes = {tuple(image.shape) for image in images}
        if len(sizes) > 1:
            shown = " and ".join(map(str, sorted(sizes)[:2]))
            raise UserError(f"images of a batch must have one size (c, h, w), got {shown}; resize them in the dataset")
        return {
            "images": torch.stack(images),
            "labels": torch.tensor([class_number(label, self.classes) for _, label in pairs]),
        }

    def prepare(self, images: Tensor, *, training: bool = False) -> Tensor:
        """Images (b, c, h, w) from 0 to 255 to what the model reads: float32, augmented in training, normalised."""
        augment = self.augment if training else None
        if augment is not None:
            images = augment.policy(images)
        x = images.contiguous().float() / 255  # images may be a view of (b, h, w, c)
        if augment is not None:
            x = augment(x)
        if len(self.mean) not in (1, x.shape[1]):
            raise UserError(
                f"images have {x.shape[1]} channels, the model was trained on {len(self.mean)}; convert the images"
            )
        mean = torch.tensor(self.mean, device=x.device)[:, None, None]
        std = torch.tensor(self.std, device=x.device)[:, None, None]
        x = (x - mean) / std
        return x if augment is None else augment.erase(x)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss in nats (a scalar) and the logits (b, classes) of a batch {"images", "labels"}.

        A model in evaluation mode gets plain cross-entropy, comparable between recipes: no smoothing, no weights. Of a
        piece of a step, whose sums are divided by batch["totals"], see `counts`.
        """
        x, labels = self.prepare(batch["images"], training=model.training), batch["labels"]
        if not model.training:
            logits = model(x).float()
            return F.cross_entropy(logits, labels), logits
        smoothing = self.label_smoothing
        if self.mix is not None:
            x, labels = self.mix(x, labels, len(self.classes), smoothing)
            smoothing = 0.0  # the mixed labels are smoothed already
        logits = model(x).float()
        weight = None
        if self.class_weights is not None:
            weight = torch.tensor(self.class_weights, device=logits.device)
        how: dict[str, Any] = {"weight": weight, "label_smoothing": smoothing}
        if "totals" in batch:
            return F.cross_entropy(logits, labels, reduction="sum", **how) / batch["totals"][0], logits
        return F.cross_entropy(logits, labels, **how), logits

    def counts(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """What the loss in training is a mean over: images, or the weights of their classes."""
        labels = batch["labels"]
        if self.class_weights is None or self.mix is not None:
            return torch.tensor([len(labels)])
        return torch.tensor(self.class_weights, device=labels.device)[labels].sum(0, keepdim=True)

    def outputs(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The logits (b, classes) of a batch, whose labels are not read."""
        return model(self.prepare(batch["images"])).float()

    def count_correct(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Images classified correctly, and all; of mixed images by their first label."""
        return (outputs.argmax(1) == labels).sum(), len(labels)

    def validation(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Loss and accuracy of a part."""
        return loss_and_accuracy(outputs, labels)


def image_tensor(image: Any) -> Tensor:
    """An image of any kind as (c, h, w) from 0 to 255; grey PIL images and arrays get three equal channels."""
    if isinstance(image, Tensor):
        if image.ndim != 3:
            raise UserError(f"an image as a tensor is (c, h, w), got {tuple(image.shape)}")
        return image * 255 if image.is_floating_point() else image
    if not isinstance(image, np.ndarray):  # PIL
        if not hasattr(image, "convert"):
            raise UserError(f"an image is a PIL image, an array or a tensor, got {type(image).__name__}")
        image = np.asarray(image.convert("RGB"))
    image = image[..., None].repeat(3, -1) if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[0] <= 4 < image.shape[2]:
        turn = "; give image.transpose(1, 2, 0), or a tensor" if image.ndim == 3 else ""
        raise UserError(f"an image as an array is (h, w) or (h, w, c), got {image.shape}{turn}")
    return image_tensor(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))


def balanced_weights(counts: Sequence[int] | np.ndarray) -> tuple[float, ...]:
    """Weights inversely proportional to the frequency of each class, n / (classes * count); absent classes get 0."""
    found = np.asarray(counts, np.float64)
    weights = np.where(found > 0, found.sum() / (len(found) * found.clip(min=1)), 0.0)
    return tuple(weights.tolist())
