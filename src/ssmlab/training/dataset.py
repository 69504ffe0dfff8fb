"""Datasets as training reads them: a batch at a time from arrays, streams without an end, and anything of torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ssmlab.core.errors import UserError


class BatchedDataset(Dataset):
    """Arrays in memory, read a batch at a time.

    Args:
        arrays: by the name in the batch, (n, ...), "labels" among them; numpy or torch.
        streams: 0, or how many rows make a step, where the next so many rows continue them; read in order then.
        unit: what an item is called.
    """

    def __init__(self, arrays: dict[str, Any], streams: int = 0, unit: str = "rows"):
        self.arrays, self.streams, self.unit = arrays, streams, unit

    def __len__(self) -> int:
        return len(self.arrays["labels"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        found = {name: torch.as_tensor(values[indices]) for name, values in self.arrays.items()}
        if "tokens" in found:
            found["tokens"] = found["tokens"].long()
        return found


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """A dataset's own exception becomes the cause of a UserError that says which item it was."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{what} of the dataset cannot be read ({reason}); mend it or leave it out") from error


def item_at(dataset: Any, index: int) -> Any:
    """An item of a map-style dataset.

    Raises:
        UserError: the dataset fails there.
    """
    with _reading(f"item {index}"):
        return dataset[index]


def items_of(dataset: Any, indices: list[int]) -> Any:
    """These items: a list, or what the `__getitems__` of the dataset makes of them.

    Raises:
        UserError: the dataset fails there.
    """
    many = getattr(dataset, "__getitems__", None)
    if not many:
        return [item_at(dataset, index) for index in indices]
    with _reading(f"one of the items {', '.join(map(str, indices[:8]))}{' ...' if len(indices) > 8 else ''}"):
        return many(indices)


class _NamedItems(Dataset):
    """A dataset whose failures name the item; all else is the dataset's own."""

    def __init__(self, data: Any):
        self.dataset = data

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):  # a copy is asked for these before it has a dataset
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> Any:
        return item_at(self.dataset, index)

    def __getitems__(self, indices: list[int]) -> Any:
        return items_of(self.dataset, indices)


class StreamDataset(Dataset):
    """An iterable dataset, read in its order and begun again when it ends, with an epoch of `length` items.

    Item i of epoch e is the (e * length + i)-th of the stream, so that a resumed training goes on where it was.
    """

    def __init__(self, source: IterableDataset, length: int, batch_size: int):
        self.source, self.length, self.streams = source, length, batch_size
        self._items: Iterator[Any] = iter(())
        self._next = self._first = 0

    def __len__(self) -> int:
        return self.length

    def begin_epoch(self, number: int) -> None:
        """From now on item 0 is the first of this epoch."""
        self._first = number * self.length

    def __getitem__(self, index: int) -> Any:
        wanted = self._first + index
        if wanted < self._next or not self._next:
            self._items, self._next = self._endless(), 0
        item = None
        while self._next <= wanted:
            item = next(self._items)
            self._next += 1
        return item

    def _endless(self) -> Iterator[Any]:
        while True:
            count = 0
            for count, item in enumerate(self.source, 1):  # noqa: B007 - the count says whether there was one
                yield item
            if not count:
                raise UserError("the iterable dataset has no items")


def as_dataset(data: Any, batch_size: int, epochs: int = 1, min_steps: int = 0) -> Dataset:
    """Anything of torch as a dataset with a length and items by number.

    Args:
        data: with `__getitem__` and `__len__`, or an iterable dataset; a list of items is a dataset too.
        epochs, min_steps: how long a stream is trained on that has no length.
    Raises:
        UserError: it is neither, or has no length and `min_steps` is 0.
    """
    if isinstance(data, IterableDataset):
        try:
            count = len(data)  # type: ignore[arg-type]
        except TypeError:
            if not min_steps:
                raise UserError(
                    "an iterable dataset without __len__ has no end; say how many steps it is trained on with min_steps"
                ) from None
            count = -(-min_steps // epochs) * batch_size
        return StreamDataset(data, count, batch_size)
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise UserError(f"expected a dataset of torch with __getitem__ and __len__, got {type(data).__name__}")
    if not len(data):
        raise UserError("the dataset is empty; give at least one item")
    return _NamedItems(data)


def batch_of(dataset: Any, indices: list[int], task: Any) -> dict[str, Tensor]:
    """The batch of these items: as the dataset makes it by `__getitems__`, or by the task's `collate`."""
    found = items_of(dataset, indices)
    return found if isinstance(found, dict) else task.collate(found)
