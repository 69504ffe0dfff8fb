"""Several processes that train one model: what they agree on, exchange and divide. torch.distributed does the work.

Every process computes the same program on its share of each batch; the first one alone writes. A batch is divided after
it is chosen, so that the same items are in the same steps at any number of processes.
"""

import atexit
import gc
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils.data import Dataset

from ssmlab.core.errors import UserError
from ssmlab.core.world import ACCELERATE, ALONE, VARIABLES, World, world_of
from ssmlab.training.dataset import StreamDataset, items_of

PATIENCE = timedelta(hours=2)  # how long a process waits for others; one that has died is noticed at once by gloo
# Their functions have the group of all processes as a default: imported later, they keep it, and its threads, for ever
_KEEP_THE_GROUP = ("torch.distributed.nn.functional", "torch.distributed.fsdp.sharded_grad_scaler")
Value = TypeVar("Value")
_SHARING: ContextVar[World] = ContextVar("sharing", default=ALONE)


def start(device: str) -> World:
    """Connect to the other processes of the launcher, if there are any; more calls change nothing.

    Args:
        device: "cuda" takes the process' own GPU.
    Raises:
        UserError: the launcher's variables are not in order, or the machine has fewer GPUs than processes.
    """
    world = world_of()
    if ACCELERATE in os.environ:  # what it asks for is the recipe's, and transformers would read it
        if device != "cpu" and os.environ.get("ACCELERATE_USE_CPU") == "True":
            raise UserError(f"accelerate launch --cpu, and the device is {device}; leave out --cpu, or take device=cpu")
        for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
            del os.environ[name]
    if world.size == 1:
        for name in VARIABLES:  # a launcher of a single process is none
            os.environ.pop(name, None)
        return world
    numbers = {"WORLD_SIZE": world.size, "RANK": world.rank, "LOCAL_RANK": world.local_rank}
    os.environ.update({name: str(value) for name, value in numbers.items()})  # under mpirun they have other names
    if device == "cuda":
        if world.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"process {world.local_rank} of this machine has no GPU of its own, there are "
                f"{torch.cuda.device_count()}; start so many processes, or take device=cpu"
            )
        torch.cuda.set_device(world.local_rank)
    if not distributed.is_initialized():
        for module in _KEEP_THE_GROUP:
            import_module(module)
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        with explained(world):
            distributed.init_process_group(backend, timeout=PATIENCE)
        atexit.register(_leave)
    return world


def _leave() -> None:
    """End gloo's threads before Python ends: one that waits for the interpreter then brings the process down.

    They end with the last reference to the group. Where something keeps one for ever, as DTensor's caches do with the
    mesh of shards, they get the time to let go of the last tensors, for which they need the interpreter.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
    gc.collect()
    time.sleep(0.1)


@contextmanager
def explained(world: World) -> Iterator[None]:
    """What is raised where another process has gone becomes one line.

    Raises:
        LostProcess: instead.
    """
    try:
        yield
    except RuntimeError as error:
        if world.size == 1:
            raise
        if not (isinstance(error, distributed.DistError) or "gloo" in str(error) or "NCCL" in str(error)):
            raise
        raise LostProcess(
            f"process {world.rank} of {world.size} ends: another one has gone, and its own line says why, if it could "
            "write one; the same command goes on from the last checkpoint"
        ) from None


@contextmanager
def sharing(world: World) -> Iterator[None]:
    """Predictions within are divided among all processes, every one of which must make the same calls."""
    token = _SHARING.set(world)
    try:
        yield
    finally:
        _SHARING.reset(token)


def shared_world() -> World:
    """Who computes together here: outside of `sharing` this process alone."""
    return _SHARING.get()


def agree(world: World, value: Value) -> Value:
    """The first process' value, on all of them."""
    if world.size == 1:
        return value
    found = [value]
    distributed.broadcast_object_list(found)
    return found[0]


def gather(world: World, value: Value) -> list[Value]:
    """Every process' value, in their order, on all of them."""
    if world.size == 1:
        return [value]
    found: list[Any] = [None] * world.size
    distributed.all_gather_object(found, value)
    return found


def summed(world: World, values: Tensor) -> Tensor:
    """The sum over all processes of a tensor on the CPU."""
    if world.size > 1:
        distributed.all_reduce(values)
    return values


def wait(world: World) -> None:
    """Go on when all processes are here."""
    gather(world, None)


def seed_apart(world: World, seed: int, step: int = 0) -> None:
    """Random numbers of this process' own, but for the first one: dropout and augmentation differ between rows."""
    if world.rank:
        number = int(np.random.SeedSequence([seed, world.rank, step]).generate_state(1)[0])
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)


class LostProcess(UserError):
    """Another process of the same run has gone."""

    exit_code = 1


class Share(Dataset):
    """This process' rows of the batches of a dataset, as dictionaries with "share": (2,), its rows and those of all.

    Where a batch has fewer rows than there are processes, one without rows gets the first row and a share of 0. Of a
    `StreamDataset` every process draws all items and prepares its own. Other datasets that are read in order, by
    `streams`, make batches whose rows depend on each other: these are made whole and then divided.

    Args:
        dataset: as `as_dataset` gives it.
        task: whose `collate` makes a batch of items.
    """

    def __init__(self, dataset: Any, task: Any, world: World):
        self.dataset, self.task, self.world = dataset, task, world

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name in ("dataset", "task", "world") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        data, count = self.dataset, len(indices)
        if getattr(data, "streams", 0) and not isinstance(data, StreamDataset):
            found = self._batch(items_of(data, indices))
            count = len(found["labels"])
            part = self.world.share(count)
            found = rows_of(found, part, self.task)
        else:
            part = self.world.share(count)
            taken = part if part.stop > part.start else slice(0, 1)
            read = data.part_of(indices, taken) if isinstance(data, StreamDataset) else items_of(data, indices[taken])
            found = self._batch(read)
        return found | {"share": torch.tensor([part.stop - part.start, count])}

    def _batch(self, found: Any) -> dict[str, Any]:
        return found if isinstance(found, dict) else self.task.collate(found)


def rows_of(batch: dict[str, Any], part: slice, task: Any) -> dict[str, Any]:
    """Rows of a batch, as the task takes them out, if it says how; the first one, where there are none."""
    part = part if part.stop > part.start else slice(0, 1)
    if hasattr(task, "rows"):
        return task.rows(batch, part)
    return {name: values[part] for name, values in batch.items()}


def in_order(parts: list[list[np.ndarray]]) -> np.ndarray:
    """Rows of all batches, of which every process had a part: (processes, batches) arrays -> one, in their order.

    Rows of tokens (n, l) are as long as the longest one of their batch; all get the longest's length, with -100.
    """
    arrays = [array for batch in zip(*parts, strict=True) for array in batch]
    if arrays[0].ndim == 2:
        widest = max(array.shape[1] for array in arrays)
        arrays = [np.pad(a, ((0, 0), (0, widest - a.shape[1])), constant_values=-100) for a in arrays]
    return np.concatenate(arrays)


def whole_state(module: torch.nn.Module) -> dict[str, Tensor]:
    """The module's state, of a sharded one with every process' shards, on the CPU. All processes must call it."""
    return {name: whole(tensor.detach()) for name, tensor in module.state_dict().items()}


def whole(tensor: Any) -> Any:
    """A tensor of shards as one on the CPU; anything else as it is."""
    return tensor.full_tensor().cpu() if isinstance(tensor, _dtensor()) else tensor


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor divided as another one is; as it is, where that is not."""
    if not isinstance(like, _dtensor()) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    own = tensor.to(like.device)  # every process has all of it: nothing is sent
    return distribute_tensor(own, like.device_mesh, like.placements, src_data_rank=None)


def _dtensor() -> Any:
    """The class of sharded tensors; () where nothing has imported it, so that none exists."""
    module = sys.modules.get("torch.distributed.tensor")
    return module.DTensor if module else ()
