"""Whole language models with random weights: tokens a second of a training step and of decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from ssmlab.generation.graphs import Decoder
from ssmlab.models import create_model
from ssmlab.models.language.language_model import LanguageModel
from ssmlab.profiling.bench.results import Result, attempt, rates

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # of logits, as a share of their norm, one token at a time against all
STATE_BYTES = 8  # a parameter's in training: itself, its gradient and two averages, each in bfloat16
WRITTEN = 32  # tokens of a decoding call


@dataclass(frozen=True)
class Plan:
    """What is measured of models of about one size, the first of which the others are compared with.

    Args:
        size: in words.
        models: names of language models.
        training: rows and tokens of a training step.
        decoding: numbers of rows.
        dtype: of weights and activations.
    """

    size: str
    models: tuple[str, ...]
    training: tuple[int, int] = (8, 2048)
    decoding: tuple[int, ...] = (1, 64)
    dtype: str = "bfloat16"


FULL = (
    Plan("130m", ("transformer_lm_130m", "mamba_lm_130m", "mamba2_lm_130m")),
    Plan("1.4b", ("mamba_lm_1.4b", "mamba2_lm_1.3b"), (4, 2048)),
    Plan("2.8b", ("mamba_lm_2.8b", "mamba2_lm_2.7b"), (2, 2048)),
)
QUICK = (
    Plan("tiny", ("transformer_lm_test", "mamba_lm_test", "mamba2_lm_test", "mamba3_lm_test"), (2, 32), (1, 3)),
    Plan("tiny", ("mamba_lm_test",), (2, 32), (2,), "float32"),
)


def language(plans: tuple[Plan, ...], device: str, budget: float, wait: Callable[[], None]) -> Iterator[list[Result]]:
    """The results of every model and every thing it does; those of one size in turns, model after model in memory."""
    for plan in plans:
        for name in plan.models:
            yield _training(plan, name, device, budget, wait)
            for rows in plan.decoding:
                yield _decoding(plan, name, rows, device, budget, wait)


def _training(plan: Plan, name: str, device: str, budget: float, wait: Callable[[], None]) -> list[Result]:
    """Forward, backward and a step of AdamW; layers are computed again in the backward pass."""
    rows, length = plan.training
    what, suite = f"{plan.size}, {rows} x {length} tokens, {plan.dtype}", "training"
    results: list[Result] = []

    def measure() -> None:
        model = _made(name, plan.dtype, device).train()
        model.backbone.gradient_checkpointing = True
        step = training_step(model, _ids(model, rows, length + 1, device))
        results.extend(rates(suite, what, "tokens", {name: step}, rows * length, budget, wait, {}))

    why = attempt(measure, _training_bytes(name, rows, length), device)
    return results or [Result(suite, what, name, "tokens/s", reason=why)]


def training_step(model: LanguageModel, ids: torch.Tensor) -> Callable[[], object]:
    """A function that takes one step on `ids` (b, l + 1) and returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=ids.is_cuda)

    def step() -> torch.Tensor:
        logits, _ = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def _decoding(plan: Plan, name: str, rows: int, device: str, budget: float, wait: Callable[[], None]) -> list[Result]:
    """The likeliest token again and again, with a step recorded as a CUDA graph and without."""
    what, suite = f"{plan.size}, {rows} rows, {plan.dtype}", "decoding"
    results: list[Result] = []

    def measure() -> None:
        with torch.no_grad():
            model = _made(name, plan.dtype, device).eval()
            wrong = step_error(model, rows, device)
            limit = TOLERANCE[plan.dtype]
            if not wrong <= limit:
                why = f"one token at a time differs from the whole text by {wrong:.1e}, limit {limit:g}"
                results.append(Result(suite, what, name, "tokens/s", reason=why))
                return
            names, skipped, calls = {name: False, f"{name}, graph": True}, {}, {}
            for label, graph in names.items():
                if graph and device != "cuda":
                    skipped[label] = "graphs are recorded on a GPU"
                    continue
                decoder = Decoder(model, graph, WRITTEN, torch.device(device))
                calls[label] = writer(model, decoder, rows, device)
                texts = [call() for call in calls.values()]
                if not torch.equal(texts[0], texts[-1]):
                    skipped[label] = "other tokens than without a graph"
                    del calls[label]
            results.extend(rates(suite, what, "tokens", calls, rows * WRITTEN, budget, wait, skipped))

    why = attempt(measure, 2.5 * _parameters(name), device)
    return results or [Result(suite, what, name, "tokens/s", reason=why)]


def writer(model: LanguageModel, decoder: Any, rows: int, device: str) -> Callable[[], torch.Tensor]:
    """A function that writes `WRITTEN` tokens after a short text, and returns them."""
    logits, state = model(_ids(model, rows, 4, device))
    first, vocabulary = logits[:, -1:, : model.config.vocab_size].argmax(-1), model.config.vocab_size

    @torch.no_grad()
    def write() -> torch.Tensor:
        ids, now, written = first, state, []
        for _ in range(WRITTEN):
            written.append(ids)
            logits, now = decoder(ids, now)
            ids = logits[:, -1:, :vocabulary].argmax(-1)
        return torch.cat(written, 1)

    return write


@torch.no_grad()
def step_error(model: LanguageModel, rows: int, device: str) -> float:
    """How far the logits of a short text read token by token are from those read at once, as a share of their norm."""
    ids, state, found = _ids(model, rows, 6, device), None, []
    whole, _ = model(ids)
    for token in ids.split(1, 1):
        logits, state = model(token, state)
        found.append(logits)
    return float((torch.cat(found, 1) - whole).float().norm() / whole.float().norm())


def _made(name: str, dtype: str, device: str) -> LanguageModel:
    torch.manual_seed(0)
    with torch.device(device):
        return create_model(name).to(getattr(torch, dtype))


def _ids(model: LanguageModel, rows: int, length: int, device: str) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, model.config.vocab_size, (rows, length), generator=random).to(device)


def _parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name).parameters())


def _training_bytes(name: str, rows: int, length: int) -> float:
    """At the most: parameters and what goes with them (in float32 while they are made), logits three times, a layer's
    input for every layer, and what one layer keeps, about 40 numbers for every channel of the stream."""
    with torch.device("meta"):
        config = create_model(name).config
    tokens = rows * length
    stream = tokens * config.d_model * (4 * config.n_layer + 160)
    return STATE_BYTES * _parameters(name) + tokens * config.padded_vocab * 10 + stream
