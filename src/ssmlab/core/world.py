"""The processes that a launcher such as torchrun has started for one run. torch is not imported."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from ssmlab.core.errors import UserError

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what a launcher sets for each process
MPI = {  # the same of mpirun, by which accelerate starts processes on CPUs: Intel MPI and MPICH, Open MPI, MVAPICH
    "WORLD_SIZE": ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
    "RANK": ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"),
    "LOCAL_RANK": ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
}
ACCELERATE = "ACCELERATE_DYNAMO_USE_FULLGRAPH"  # accelerate launch sets it always, nothing else does
REQUESTS = {  # what it may ask of a training, the value that asks for nothing, and what a recipe has for it
    "ACCELERATE_MIXED_PRECISION": ("no", "training.precision"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "training.accumulation"),
    "ACCELERATE_USE_FSDP": ("false", "training.sharding=full"),
    "ACCELERATE_USE_DEEPSPEED": ("false", "training.sharding=full"),
    "ACCELERATE_USE_MEGATRON_LM": ("false", "training.sharding=full"),
    "ACCELERATE_DYNAMO_BACKEND": ("no", "nothing"),
}


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
        UserError: WORLD_SIZE names several processes and the rest is missing, a value is no number that fits, or
            `accelerate launch` was asked for what it does not do or a recipe decides.
    """
    found = os.environ if environment is None else environment
    size = _number(found, "WORLD_SIZE", 1)
    if ACCELERATE in found:
        _check_accelerate(found)
    if size == 1:
        return ALONE
    missing = [name for name in VARIABLES if not found.get(_name(found, name))]
    if missing:
        raise UserError(
            f"{_name(found, 'WORLD_SIZE')} is {size} but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            f"not set; start the processes with `torchrun --nproc-per-node {size} -m ssmlab ...`, or unset "
            f"{_name(found, 'WORLD_SIZE')} for a single one"
        )
    rank, local = _number(found, "RANK"), _number(found, "LOCAL_RANK")
    if not 0 <= rank < size:
        raise UserError(f"RANK must be from 0 to {size - 1} with WORLD_SIZE={size}, got {rank}; start with torchrun")
    return World(rank, size, local)


def _check_accelerate(found: Mapping[str, str]) -> None:
    if not found.get(_name(found, "WORLD_SIZE")) and found.get("MASTER_ADDR") and found.get("MASTER_PORT"):
        raise UserError(
            "accelerate launch has started a single process, as it does without several GPUs, whatever --num_processes "
            "says; take `torchrun --nproc-per-node N -m ssmlab ...` or `accelerate launch --multi_gpu --num_processes "
            "N -m ssmlab ...`, which start N on CPUs too, or `--num_processes 1` without MASTER_ADDR"
        )
    for name, (nothing, key) in REQUESTS.items():
        if (value := found.get(name, nothing).lower()) != nothing:
            raise UserError(
                f"accelerate launch asks for {name}={value}, which the recipe decides; leave it out of its command or "
                f"configuration (`accelerate launch --config_file`), the recipe has {key} for it"
            )


def _name(found: Mapping[str, str], name: str) -> str:
    """Under which name a variable of `VARIABLES` is set, its own if it is not."""
    return next((other for other in (name, *MPI.get(name, ())) if found.get(other)), name)


def _number(found: Mapping[str, str], name: str, default: int = 0) -> int:
    name = _name(found, name)
    text = found.get(name) or str(default)
    if not text.isdecimal() or (default and not int(text)):
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
