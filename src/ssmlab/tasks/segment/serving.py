"""What torch serves in a segmentation run: training images ready to be cut, validation images by their numbers."""

import torch
from torch import Tensor

from ssmlab.data.masks.reader import MaskSplit
from ssmlab.tasks.segment.data import Masks
from ssmlab.tasks.segment.task import normalised
from ssmlab.tasks.shared.regrid import regrid, regrid_labels, regridded_size

PREPARED = 1 << 29  # bytes of normalised images that are kept


class ValidationVolumes(torch.utils.data.Dataset):
    """Validation images by number; the task reads and predicts them whole."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"cases": torch.tensor(indices), "labels": torch.zeros(len(indices), dtype=torch.int64)}


class Prepared:
    """Training images by number, normalised, at one spacing; as many are kept as PREPARED allows.

    Args:
        spacing: empty leaves the images as they are.
    """

    def __init__(self, data: Masks, spacing: tuple[float, ...] = ()):
        self.data, self.spacing = data, spacing
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._left = PREPARED

    def __call__(self, i: int) -> tuple[Tensor, Tensor]:
        """Image (c, *spatial) float32 and labels (*spatial)."""
        if i in self._kept:
            return self._kept[i]
        image, labels, own = fetched(self.data.train, i)
        image = normalised(image, self.data.mean, self.data.std)
        if self.spacing:
            size = regridded_size(labels.shape, own, self.spacing)
            image, labels = regrid(image, size), regrid_labels(labels, size)
        taken = 4 * image.numel()
        if taken <= self._left:
            self._kept[i], self._left = (image, labels), self._left - taken
        return image, labels


def fetched(split: MaskSplit, i: int) -> tuple[Tensor, Tensor, tuple[float, ...]]:
    """An image (c, *spatial) as it was read, its labels (*spatial) uint8, and its spacing."""
    sample = split.sample(i)
    return torch.from_numpy(sample.image), torch.from_numpy(sample.labels), sample.spacing
