"""The processes that a launcher such as torchrun has started for one run. torch is not imported."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from ssmlab.core.errors import UserError

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what a launcher sets for each process


@dataclass(frozen=True)
class World:
    """One of several processes.

    Args:
        rank: its number, from 0 on, among all `size`; local_rank: among those of its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def share(self, count: int) -> slice:
        """Which of `count` things in a row are this process': pieces in order, whose sizes differ by 1 at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)


ALONE = World()


def world_of(environment: Mapping[str, str] | None = None) -> World:
    """The process that the environment's variables describe; without them the only one.

    Raises:
        UserError: WORLD_SIZE names several processes and the rest is missing, or a value is no number that fits.
    """
    found = os.environ if environment is None else environment
    size = _number(found, "WORLD_SIZE", 1)
    if size == 1:
        return ALONE
    missing = [name for name in VARIABLES if not found.get(name)]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {size} but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set; start the "
            f"processes with `torchrun --nproc-per-node {size} -m ssmlab ...`, or unset WORLD_SIZE for a single one"
        )
    rank, local = _number(found, "RANK"), _number(found, "LOCAL_RANK")
    if not 0 <= rank < size:
        raise UserError(f"RANK must be from 0 to {size - 1} with WORLD_SIZE={size}, got {rank}; start with torchrun")
    return World(rank, size, local)


def _number(found: Mapping[str, str], name: str, default: int = 0) -> int:
    text = found.get(name) or str(default)
    if not text.isdecimal() or (name == "WORLD_SIZE" and not int(text)):
        raise UserError(f"{name} must be a number that a launcher sets, got {text!r}; unset it, or start with torchrun")
    return int(text)


_DISCARDS: ContextVar[bool] = ContextVar("discards", default=False)


@contextmanager
def discarding(yes: bool = True) -> Iterator[None]:
    """What is written to a run's folder within is thrown away: this process computes for the one that writes."""
    token = _DISCARDS.set(yes)
    try:
        yield
    finally:
        _DISCARDS.reset(token)


def discards() -> bool:
    """Whether large files need not be written."""
    return _DISCARDS.get()
