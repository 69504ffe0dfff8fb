"""Datasets that people bring along: what they say about themselves, their first items, and wrappers around them."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from ssmlab.core.errors import UserError
from ssmlab.tasks.shared.labels import class_number
from ssmlab.training.dataset import batch_of, item_at


def attribute(data: Any, name: str) -> Any:
    """What a dataset has under a name, or the dataset inside it, as a `Subset` has one; None where none has it."""
    while data is not None:
        found = getattr(data, name, None)
        if found is not None:
            return found
        data = getattr(data, "dataset", None)
    return None


def some_items(data: Any, count: int) -> list[Any]:
    """At most so many items from all over a dataset, of a stream the first ones.

    Raises:
        UserError: there is none, or the data are no dataset.
    """
    if isinstance(data, str | Path):
        raise UserError(f"expected a dataset, got the text {str(data)!r:.60}; torchvision's ImageFolder reads a folder")
    if isinstance(data, IterableDataset):
        found = list(islice(iter(data), count))
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        places = np.linspace(0, max(len(data) - 1, 0), min(count, len(data))).round().astype(int)
        found = [item_at(data, int(i)) for i in places]
    else:
        inside = "; give its .dataset" if hasattr(data, "dataset") else ""  # a DataLoader
        raise UserError(f"expected a dataset of torch, or a list of items, got {type(data).__name__}{inside}")
    if not found:
        raise UserError("the dataset is empty; give at least one item")
    return found


def pair(item: Any, first: str = "images") -> tuple[Any, Any]:
    """The two halves of an item, (input, label) or {first: input, "labels": label}.

    Raises:
        UserError: it has no two halves.
    """
    if isinstance(item, dict):
        if first in item and "labels" in item:
            return item[first], item["labels"]
    elif isinstance(item, (tuple, list)) and len(item) >= 2:
        return item[0], item[1]
    got = f"keys {', '.join(map(str, item))}" if isinstance(item, dict) else type(item).__name__
    raise UserError(f"an item of the dataset must be (input, label), got {got}")


def labels_of(data: Any, first: str = "images") -> list[int]:
    """The labels of all items of a map-style dataset, from its `targets` where it has them.

    Raises:
        UserError: a label is no whole number from 0 on.
    """
    found, inside = getattr(data, "targets", None), getattr(getattr(data, "dataset", None), "targets", None)
    if found is None and inside is not None and hasattr(data, "indices"):  # a Subset
        found = [inside[i] for i in data.indices]
    if found is None:
        found = [pair(item_at(data, i), first)[1] for i in range(len(data))]
    return [class_number(label) for label in found]


class Changed(Dataset):
    """A dataset whose items go through a function."""

    def __init__(self, data: Any, change: Callable[[Any], Any]):
        self.dataset, self.change = data, change

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.change(item_at(self.dataset, index))


class ChangedStream(IterableDataset):
    """The same of an iterable dataset."""

    def __init__(self, data: Any, change: Callable[[Any], Any]):
        self.dataset, self.change = data, change

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        return map(self.change, self.dataset)


def changed(data: Any, change: Callable[[Any], Any]) -> Any:
    """A dataset of either kind, or None, with changed items."""
    if data is None:
        return None
    return ChangedStream(data, change) if isinstance(data, IterableDataset) else Changed(data, change)


class Remembered(Dataset):
    """A dataset as batches of a task, whose labels are kept as they are read."""

    def __init__(self, data: Any, task: Any):
        self.dataset = list(data) if isinstance(data, IterableDataset) else data
        self.task, self.unit = task, getattr(data, "unit", "items")
        self._labels: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        batch = batch_of(self.dataset, indices, self.task)
        self._labels.append(batch["labels"])
        return batch

    @property
    def labels(self) -> np.ndarray:
        """Of all items that were read, in their order."""
        return torch.cat(self._labels).numpy()


def outputs_of(model: nn.Module, task: Any, item: Any) -> Tensor:
    """What a model returns for one item; the model stays as it was.

    Raises:
        UserError: the model does not take such an item.
    """
    batch, was = task.collate([item]), model.training
    device = next((tensor.device for tensor in model.parameters()), "cpu")
    try:
        with torch.no_grad():
            return task.outputs(model.eval(), {name: tensor.to(device) for name, tensor in batch.items()})
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in batch.items())
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{name_of(model)} does not take the first item of the dataset ({shapes}): {reason}") from error
    finally:
        model.train(was)


def name_of(model: Any) -> str:
    """What messages call a model."""
    return getattr(model, "registry_name", None) or type(model).__name__


def several(inputs: Any, *, images: bool) -> list[Any]:
    """Inputs as a list, also where there is a single one.

    Args:
        images: else texts or sequences of tokens.
    """
    if isinstance(inputs, (str, Path)) or hasattr(inputs, "convert"):  # a text, a file, PIL
        return [inputs]
    if isinstance(inputs, (Tensor, np.ndarray)):
        dims = 3 if images else 1
        grey = isinstance(inputs, np.ndarray) and images and inputs.ndim == 3 and inputs.shape[-1] > 4  # (n, h, w)
        return [inputs] if inputs.ndim <= dims and not grey else list(inputs)
    if not hasattr(inputs, "__getitem__") and not hasattr(inputs, "__iter__"):
        kinds = "images, files" if images else "texts, tokens"
        raise UserError(f"predict takes {kinds} or a dataset, got {type(inputs).__name__}")
    if not images and isinstance(inputs, (list, tuple)) and inputs and isinstance(inputs[0], int):
        return [inputs]
    return [inputs[i] for i in range(len(inputs))] if hasattr(inputs, "__getitem__") else list(inputs)
