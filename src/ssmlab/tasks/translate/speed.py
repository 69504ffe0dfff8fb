"""How fast a translation model writes, and in how much memory, at several lengths: tokens are given, not chosen."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssmlab.core.record import Record
from ssmlab.profiling import evaluation, peak_memory

LENGTHS = (64, 256, 1024, 4096)  # tokens that are written
SOURCE, WARM = 32, 8  # tokens that are read before; tokens that are written before the clock runs


def state_bytes(state: Any) -> int:
    """Memory of a state: of every storage in it, once."""
    found: dict[int, int] = {}

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            found[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        elif isinstance(part, (tuple, list)):
            for inner in part:
                add(inner)

    add(state)
    return sum(found.values())


@torch.inference_mode()
def write_forced(model: Any, state: Any, tokens: Tensor) -> tuple[Any, float]:
    """The state after tokens (b, l) that are read one by one, as in decoding, and the seconds that took."""
    begin = time.perf_counter()
    for column in tokens.split(1, dim=1):
        logits, state = model(column, state, last_only=True)
    if tokens.is_cuda:
        torch.cuda.synchronize()
    assert logits.shape[1] == 1
    return state, time.perf_counter() - begin


@torch.inference_mode()
def decoding_records(
    model: Any, separator: int, lengths: Sequence[int] = LENGTHS, *, rows: int = 1, seed: int = 0
) -> list[Record]:
    """What writing so many tokens costs, after a source of 32 tokens; records of the class "length <tokens>".

    decoding_seconds: of a token, the mean over all up to that length, for all rows together. decoding_memory: bytes of
    the state of all rows. decoding_growth: bytes by which the process, or what is allocated on a GPU, grew at most
    since the source was read.

    Args:
        model: a translation model; it is left in the mode in which it was.
        separator: the token that begins a target.
        lengths: the shortest first.
        seed: of the tokens, which are random.
    """
    device = next(model.parameters()).device
    draw = torch.Generator().manual_seed(seed)
    size, records, before = model.config.vocab_size, [], None
    with evaluation(model):
        source = torch.randint(size, (rows, SOURCE), generator=draw).to(device)
        tokens = torch.randint(size, (rows, WARM + max(lengths, default=0)), generator=draw).to(device)
        tokens[:, 0] = separator
        for length in sorted(lengths):
            state, _ = write_forced(model, model.read_source(source), tokens[:, :WARM])
            with peak_memory(device) as peak:
                state, seconds = write_forced(model, state, tokens[:, WARM : WARM + length])
            found = [("seconds", seconds / length, "seconds"), ("memory", float(state_bytes(state)), "bytes")]
            if peak.bytes is not None and peak.extra is not None:
                before = peak.bytes - peak.extra if before is None else before
                found.append(("growth", float(max(0, peak.bytes - before)), "bytes"))
            records += [
                Record(metric=f"decoding_{name}", value=value, unit=unit, n=1, class_=f"length {length}")
                for name, value, unit in found
            ]
    return records
