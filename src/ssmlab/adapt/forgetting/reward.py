"""A reward for what a language model writes itself, while its distribution is held to that of the frozen base.

    J = E_x[r(x) + beta log(a(x) / pi(x))]      x written by the network pi, a the base, r a reward

Its maximum is pi(x) = a(x) exp(r(x) / beta) / Z: a base that is reweighted, not left. Without r this is distillation on
the network's own texts, beta KL(pi || a), where `forgetting.Distillation` takes KL(a || pi) on given ones.

Source: Korbak et al. 2022 (arXiv:2206.00761): KL control, and why it is distribution matching; the gradient is that of
REINFORCE (Williams 1992), with a baseline.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.adapt.forgetting.terms import Batch, Inputs, View, drawn
from ssmlab.core.errors import UserError
from ssmlab.profiling.flops import evaluation

Score = Callable[[Tensor, int], Tensor]  # tokens (b, l), how many of them are the prompt's -> rewards (b,)


@dataclass
class Reward:
    """The negative of J over tokens, whose gradient is the policy's; its value is that of no loss.

    Every token's advantage is what follows it, r and beta log(a / pi) of it and of all later tokens, minus what the
    other rows have there.

    view, base: as of `forgetting.Distillation`, of a language model.
    inputs: a batch -> tokens (b, l) and a mask of those that count; prompts are their beginnings.
    vocab_size: tokens that are written.
    score: r; None is 0.
    weight, beta: of the term, and of the base in it.
    rows, prompt, tokens: texts of a step, tokens that are read and that are written.
    part: where it is given, prompts come from its rows.
    """

    view: View
    base: View
    inputs: Inputs
    vocab_size: int
    score: Score | None = None
    weight: float = 1.0
    beta: float = 1.0
    rows: int = 8
    prompt: int = 16
    tokens: int = 32
    part: Any = None

    def __post_init__(self):
        if self.beta <= 0 or min(self.prompt, self.tokens) < 1 or self.rows < 2:
            raise UserError(
                "reward: beta > 0, prompt and tokens >= 1 and rows >= 2 (a row's baseline is the others) must hold, "
                f"got {self.beta}, {self.prompt}, {self.tokens} and {self.rows}"
            )

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        prompts = self._prompts(batch)
        with evaluation(self.view.network):  # what writes a text and what judges it are one distribution
            tokens = self.write(prompts)
            own = self._log_probabilities(self.view, tokens)
        with torch.no_grad():
            gained = self.beta * (self._log_probabilities(self.base, tokens) - own)
            following = gained.flip(1).cumsum(1).flip(1) + self.scores(tokens, prompts.shape[1])[:, None]
            others = (following.sum(0) - following) / (len(following) - 1)
        return -self.weight * ((following - others) * own).mean()

    def scores(self, tokens: Tensor, prompt: int) -> Tensor:
        """r of every row, (b,) float32.

        Raises:
            UserError: the function returns something else.
        """
        if self.score is None:
            return torch.zeros(len(tokens), device=tokens.device)
        found = torch.as_tensor(self.score(tokens, prompt), device=tokens.device).float()
        if found.shape != (len(tokens),) or not torch.isfinite(found).all():
            raise UserError(
                f"the reward must be {len(tokens)} finite numbers, one a row, got shape {tuple(found.shape)}"
            )
        return found

    @torch.no_grad()
    def write(self, prompts: Tensor) -> Tensor:
        """prompts (b, p) -> prompts and what the network writes after them, (b, p + tokens), drawn token by token."""
        found, state = [prompts], None
        for _ in range(self.tokens):
            logits, state = self.view(found[-1], state)
            likely = logits[:, -1, : self.vocab_size].float()
            found.append(torch.distributions.Categorical(logits=likely).sample()[:, None])
        return torch.cat(found, 1)

    def _prompts(self, batch: Batch) -> Tensor:
        """(rows, p): beginnings of rows, as long as the shortest row allows."""
        if self.part is not None:
            batch = drawn(self.part, self.rows, batch["labels"].device)
        (tokens,), _, mask = self.inputs(batch)
        rows = torch.arange(self.rows, device=tokens.device) % len(tokens)
        shortest = tokens.shape[1] if mask is None else int(mask[rows].sum(1).min())
        return tokens[rows, : max(1, min(self.prompt, shortest))]

    def _log_probabilities(self, view: View, tokens: Tensor) -> Tensor:
        """Of every written token, (b, tokens)."""
        logits, _ = view(tokens[:, :-1])
        likely = logits[:, -self.tokens :, : self.vocab_size].float().log_softmax(-1)
        return likely.gather(-1, tokens[:, -self.tokens :, None]).squeeze(-1)


def load_score(text: str) -> Score:
    """The function that "FILE.py:FUNCTION" names.

    Raises:
        UserError: there is no such file or function.
    """
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not name or path.suffix != ".py" or not path.is_file():
        raise UserError(f"reward={text!r} must be FILE.py:FUNCTION, with a file that is there")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise UserError(f"reward={text!r}: {path} has no function {name}")
    return getattr(module, name)
