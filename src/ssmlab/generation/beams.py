"""Beam search: the likeliest text that one finds by keeping several."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssmlab.generation.prompt_state import PromptState, select_rows
from ssmlab.generation.text_stream import TextStream


@dataclass
class Beam:
    """A hypothesis of the search: its tokens with their log probabilities, the score they add up to, and its text."""

    tokens: list[tuple[int, float]]
    score: float
    stream: TextStream | None

    def mean(self) -> float:
        """The score that texts of different lengths are compared by."""
        return self.score / max(1, len(self.tokens))


def beam_search(
    model: Any,
    reading: PromptState,
    beams: int,
    max_tokens: int,
    process: Callable[[Tensor, Tensor], Tensor] | None,
    ends: Collection[int],
    stream: TextStream | None,
) -> list[tuple[int, float]]:
    """The best continuation of one row, as tokens with their log probabilities.

    Twice as many candidates as beams are looked at, so that as many go on however many end. The search ends when
    `beams` texts have ended and none that goes on has a better mean than the worst of them, or at `max_tokens`.

    Args:
        reading: of one row.
        beams: texts that go on.
        process: changes log probabilities before they are added up, as a penalty does.
        ends, stream: a text ends at one of these tokens, or where its stream meets a stop string.
    """
    going, ended = [Beam([], 0.0, stream)], []
    logits, state = reading.logits, reading.state
    text = torch.tensor(reading.tokens, device=logits.device)
    vocab = model.config.vocab_size
    for _ in range(max_tokens):
        wide = torch.promote_types(logits.dtype, torch.float32)
        logs = logits[:, :vocab].to(wide).log_softmax(1)
        scores = logs if process is None else process(text, logs)
        total = scores + torch.tensor([beam.score for beam in going], device=scores.device, dtype=wide)[:, None]
        best = total.flatten().topk(min(2 * beams, total.numel()))
        parents: list[int] = []
        kept: list[Beam] = []
        for place, (score, at) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            parent, token = divmod(at, vocab)
            stream = copy.copy(going[parent].stream)
            if stream is not None:
                stream.push(token)
            beam = Beam([*going[parent].tokens, (token, float(logs[parent, token]))], score, stream)
            if token in ends or (beam.stream is not None and beam.stream.stopped):
                if place < beams:  # one that would not have gone on does not end either
                    ended.append(beam)
            elif len(kept) < beams and score > -torch.inf:
                kept.append(beam)
                parents.append(parent)
        ended = sorted(ended, key=Beam.mean, reverse=True)[:beams]
        going = kept
        if not going or (len(ended) == beams and going[0].mean() <= ended[-1].mean()):
            break
        index = torch.tensor(parents, device=text.device)
        new = torch.tensor([[beam.tokens[-1][0]] for beam in going], device=text.device)
        text = torch.cat([text[index], new], 1)
        logits, state = model(new, select_rows(state, index))
        logits = logits[:, -1]
    else:
        ended += going
    return max(ended, key=Beam.mean).tokens
