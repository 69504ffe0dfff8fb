"""Decoding as one CUDA graph: a token's hundreds of small kernels are recorded once and replayed by one call.

A graph reads and writes the memory that it was recorded with, so a step is given buffers that stay where they are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ssmlab.core.errors import ModelError

log = logging.getLogger(__name__)

SWITCH = "SSMLAB_CUDA_GRAPHS"  # 0 in the environment turns them off
FEWEST = 8  # tokens; recording takes about as long as four
WARM_UP = 2  # calls before a recording: what is compiled or allocated once may not be in it

Capture = Callable[[Callable[[], None]], Callable[[], None]]


class NotStaticError(Exception):
    """A model's step cannot be recorded; says why."""


def record(run: Callable[[], None]) -> Callable[[], None]:
    """Record what `run` does on the GPU as a CUDA graph, and return a function that replays it.

    `run` is called a few times before, and nothing is computed while it is recorded.

    Raises:
        RuntimeError: something in it cannot be recorded.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


class StaticStep:
    """One token of a model for a number of rows, in buffers that stay where they are.

    Args:
        model: a language model.
        state: the states before the first token; copied.
        capture: makes of a function one that does the same, as `record` does.
    Raises:
        NotStaticError: the states change their sizes or dtypes from token to token, as those of attention.
        RuntimeError: the step cannot be captured.
    """

    def __init__(self, model: Any, state: tuple, capture: Capture = record):
        self.model = model
        self._last: tuple | None = None
        first = state[0][0]
        self.rows = first.shape[0]
        self.ids = torch.zeros(self.rows, 1, dtype=torch.int64, device=first.device)
        self.state = tuple(type(layer)(*(part.clone() for part in layer)) for layer in state)
        logits, after = model(self.ids, self.state)
        for layer, own, new in zip(range(len(state)), self.state, after, strict=True):
            for part, changed in zip(own, new, strict=True):
                if part.shape != changed.shape or part.dtype != changed.dtype:
                    raise NotStaticError(
                        f"layer {layer}'s state goes from {tuple(part.shape)}, {part.dtype} to "
                        f"{tuple(changed.shape)}, {changed.dtype}"
                    )
        self.logits = torch.empty_like(logits)
        with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
            self._advance = capture(self.run)
        self._fill(self.state, state)  # recording has moved them on

    def run(self) -> None:
        """Read the buffers, and write logits and states into them."""
        logits, after = self.model(self.ids, self.state)
        self.logits.copy_(logits)
        self._fill(self.state, after)

    def __call__(self, input_ids: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        """Logits (b, 1, vocabulary) and the states after one token (b, 1) of at most `rows` rows. Both are overwritten
        by the next call; the states that come back may be passed on as they are."""
        count = len(input_ids)
        self.ids[:count].copy_(input_ids)
        if state is not self._last:
            self._fill(self.state, state, count)
        self._advance()
        if count == self.rows:
            self._last = self.state
        else:
            self._last = tuple(type(layer)(*(part[:count] for part in layer)) for layer in self.state)
        return self.logits[:count], self._last

    @staticmethod
    def _fill(own: tuple, other: tuple, rows: int | None = None) -> None:
        """Copy; `other` may not overlap with `own`."""
        for layer, new in zip(own, other, strict=True):
            for part, value in zip(layer, new, strict=True):
                part[:rows].copy_(value)


class Decoder:
    """What `generate` calls for every token: the model itself, or a recorded step of it.

    A step that was recorded for more rows goes on with fewer, until half of them are left.

    Args:
        model: a language model.
        graphs: whether to record; None: on a GPU, unless the environment says SSMLAB_CUDA_GRAPHS=0, where it pays.
        tokens: that will be written at most.
        device: where the model is.
        capture: as for `StaticStep`.
    Raises:
        ModelError: `graphs` is True and the model is not on a GPU.
    """

    def __init__(
        self, model: Any, graphs: bool | None, tokens: int, device: torch.device, capture: Capture | None = None
    ):
        self.model, self.requested = model, graphs
        self.capture = record if capture is None and device.type == "cuda" else capture
        if graphs and self.capture is None:
            raise ModelError(f"graphs=True records what a GPU does, and the model is on {device}; leave it out")
        wanted = os.environ.get(SWITCH) != "0" and tokens >= FEWEST if graphs is None else graphs
        whole = getattr(model, "reads_whole", False)  # such a model's states are no tensors
        self.recording = wanted and self.capture is not None and not whole
        self.step: StaticStep | None = None

    def __call__(self, input_ids: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        """As the model is called with one token (b, 1). What is returned is overwritten by the next call."""
        rows = len(input_ids)
        if self.recording and (self.step is None or not self.step.rows // 2 < rows <= self.step.rows):
            self.step = None
            self.step = self._record(state)
        return self.model(input_ids, state) if self.step is None else self.step(input_ids, state)

    def _record(self, state: tuple) -> StaticStep | None:
        assert self.capture is not None
        try:
            return StaticStep(self.model, state, self.capture)
        except (NotStaticError, RuntimeError) as error:
            if self.requested:
                raise ModelError(f"this model's step cannot be recorded: {error}; leave graphs=True out") from error
            log.warning("decoding goes on without a CUDA graph: %s", str(error).split("\n")[0])
            self.recording = False
            return None
