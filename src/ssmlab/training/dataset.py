"""Datasets as training reads them: a batch at a time from arrays, streams without an end, and anything of torch."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ssmlab.core.errors import UserError

POSITION = "stream.json"  # in a checkpoint
KEPT_STATES = 8  # of a stream before its last batches; a loader reads one or two batches ahead


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

    Item i of epoch e is the (e * length + i)-th of the stream, so that a resumed training goes on where it was: at once
    where the source has `state_dict` and `load_state_dict`, which are then in the checkpoints, else by reading again
    what came before.

    Args:
        source: anything that can be iterated; `take(count, part)`, if it has it, gives those of its next `count` items
            that are in the slice `part`. Several processes read the same items from theirs.
        collate: makes a batch of items; None: the task does.
        unit: what an item is called.
    """

    def __init__(
        self, source: Any, length: int, batch_size: int, collate: Callable[[list[Any]], dict] | None = None,
        unit: str = "items",
    ):  # fmt: skip
        self.source, self.length, self.streams, self.unit = source, length, batch_size, unit
        self._collate, self.has_position = collate, hasattr(source, "load_state_dict")
        self._items: Iterator[Any] | None = None
        self._next = self._first = 0
        # where the source was before the last batches: a loader reads further than what a checkpoint was trained on
        self._states: dict[int, Any] = {0: source.state_dict()} if self.has_position else {}

    def __len__(self) -> int:
        return self.length

    def begin_training(self, seed: int) -> None:
        """Read in the order of this seed, where the source has one, unless the training goes on from a checkpoint."""
        if hasattr(self.source, "restart") and self._next == 0:
            self.source.restart(seed)
            self._states = {0: self.source.state_dict()}

    def begin_epoch(self, number: int) -> None:
        """From now on item 0 is the first of this epoch."""
        self._first = number * self.length

    def __getitem__(self, index: int) -> Any:
        return self._read(self._first + index, 1)[0]

    def __getitems__(self, indices: list[int]) -> Any:
        """These items, as a batch if the dataset makes batches; those that follow each other are read at once."""
        return self.part_of(indices, slice(None))

    def part_of(self, indices: list[int], part: slice) -> Any:
        """Those of these items that are in a part, as `__getitems__`; all are read, for the position."""
        if indices == list(range(indices[0], indices[0] + len(indices))):
            items = self._read(self._first + indices[0], len(indices), part)
        else:
            read = {index: self._read(self._first + index, 1)[0] for index in sorted(set(indices))}
            items = [read[index] for index in indices[part]]
        return self._collate(items) if self._collate else items

    def position(self, item: int) -> dict[str, Any]:
        """Where an item of the stream is, as JSON: one that begins one of the last batches, or comes after them."""
        if item >= self._next:
            self._seek(item)
            self._keep_state()
        return {"item": item, "state": self._states[item]}

    def go_to(self, position: dict[str, Any]) -> None:
        """Go on from a `position`."""
        self._next, self._states = -1, {0: self._states[0], position["item"]: position["state"]}
        self._seek(position["item"])

    def _read(self, item: int, count: int, part: slice = slice(None)) -> list[Any]:
        self._seek(item)
        if self.has_position:
            self._keep_state()
        self._next += count
        if hasattr(self.source, "take"):
            return self.source.take(count, part)
        self._items = self._items or self._endless()
        return [next(self._items) for _ in range(count)][part]

    def _keep_state(self) -> None:
        self._states[self._next] = self.source.state_dict()
        for old in sorted(self._states)[1:-KEPT_STATES]:  # the first one is where everything begins
            del self._states[old]

    def _seek(self, item: int) -> None:
        if item == self._next:
            return
        if item < self._next or self._next < 0:
            known = max((at for at in self._states if at <= item), default=0)
            if self.has_position:
                self.source.load_state_dict(self._states[known])
            self._items, self._next = None, known
        while self._next < item:
            self._read(self._next, 1, slice(0))

    def _endless(self) -> Iterator[Any]:
        empty = 0
        while empty < 2:  # one that goes on may have been at its end
            count = 0
            for count, item in enumerate(self.source, 1):  # noqa: B007 - the count says whether there was one
                yield item
            empty = 0 if count else empty + 1
        raise UserError("the iterable dataset has no items")


class Position:
    """The position of a stream in the checkpoints of a trainer, in `stream.json`."""

    def __init__(self, data: StreamDataset, trainer: Any):
        self.data, self.trainer = data, trainer

    def save(self, folder: Path) -> None:
        """Where the step after the last one begins to read."""
        state = self.trainer.state
        epoch, step = divmod(state.global_step, state.max_steps // state.num_train_epochs)
        found = self.data.position(epoch * len(self.data) + step * self.data.streams)
        (folder / POSITION).write_text(json.dumps(found), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Go on from there; from the beginning, read again, with a checkpoint of a version that kept none."""
        if (folder / POSITION).is_file():
            self.data.go_to(json.loads((folder / POSITION).read_text(encoding="utf-8")))


def as_dataset(data: Any, batch_size: int, epochs: int = 1, min_steps: int = 0) -> Dataset:
    """Anything of torch as a dataset with a length and items by number.

    Args:
        data: with `__getitem__` and `__len__`, or an iterable dataset, torch's or anything with `state_dict` and
            `load_state_dict`; a list of items is a dataset too.
        epochs, min_steps: how long a stream is trained on that has no length.
    Raises:
        UserError: it is neither, or has no length and `min_steps` is 0.
    """
    if isinstance(data, StreamDataset):
        return data
    if isinstance(data, IterableDataset) or hasattr(data, "load_state_dict"):
        try:
            count = len(data)
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
