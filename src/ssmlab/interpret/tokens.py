"""Which tokens of a sequence a model looked at: gradients on embeddings, hidden attention, and whether they matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.interpret.capture import scans_of
from ssmlab.interpret.scores import Curve
from ssmlab.profiling.flops import evaluation


class TokenScores(NamedTuple):
    """Integrated gradients of the tokens of one sequence.

    values: of the tokens, (l,), signed, sums over the channels of the embeddings.
    error: what their sum lacks of the difference between the sequence's and the baseline's logit.
    """

    values: Tensor
    error: float


class FromEmbeddings(nn.Module):
    """A language model or a classifier of sequences as a function of embedded tokens.

    Args:
        network: with `backbone.embedding`; its logits of the last position are taken where it has them for all.
    """

    def __init__(self, network: Any):
        super().__init__()
        self.network = network
        self.embedding: nn.Embedding = network.backbone.embedding

    def forward(self, embedded: Tensor) -> Tensor:
        """(b, l, d) -> logits (b, classes or vocabulary)."""
        handle = self.embedding.register_forward_hook(lambda module, inputs, output: embedded)
        try:
            found = self.network(torch.zeros(embedded.shape[:2], dtype=torch.int64, device=embedded.device))
        finally:
            handle.remove()
        return found[0][:, -1] if isinstance(found, tuple) else found

    @torch.no_grad()
    def embed(self, tokens: Sequence[int]) -> Tensor:
        """(1, l, d)."""
        weight = self.embedding.weight
        return self.embedding(torch.as_tensor(tokens, device=weight.device)[None]).detach()

    @torch.no_grad()
    def baseline(self) -> Tensor:
        """An embedding that stands for no token: the mean of all, (d,). Zero is no choice, a norm comes next."""
        return self.embedding.weight[: self.network.config.vocab_size].float().mean(0).to(self.embedding.weight.dtype)


def token_logits(network: Any, tokens: Sequence[int]) -> Tensor:
    """What the model says of one sequence, on the CPU in float32: logits of the classes, or of the next token."""
    through = FromEmbeddings(network)
    with evaluation(network), torch.inference_mode():
        return through(through.embed(tokens))[0].float().cpu()


def token_scores(
    network: Any, tokens: Sequence[int], target: int, *, steps: int = 32, batch_size: int = 8
) -> TokenScores:
    """What every token of a sequence adds to a class's logit, or to that of a next token: integrated gradients.

    Source: Sundararajan et al. 2017 (arXiv:1703.01365), equation 1, on embeddings, on the way from the mean embedding;
    computed by captum. Gradient x input is no cheaper substitute here: a norm reads every embedding, so the gradient is
    nearly at right angles to it (of 8 sequences whose class one token decides it found that token in none, integrated
    gradients in 7).

    Args:
        network: a language model or a classifier of sequences, in evaluation mode.
        tokens: of one sequence.
        target: the class, or the token.
        steps: points of the quadrature.
        batch_size: copies of the sequence that go through the model at once.
    Raises:
        ModelError: no tokens.
    """
    from captum.attr import IntegratedGradients

    if not len(tokens):
        raise ModelError("a sequence without tokens has no explanation; give at least one")
    through = FromEmbeddings(network)
    embedded = through.embed(tokens)
    with evaluation(network), torch.enable_grad():
        values, error = IntegratedGradients(through).attribute(
            embedded.requires_grad_(), through.baseline().expand_as(embedded), target, n_steps=steps,
            internal_batch_size=batch_size, return_convergence_delta=True,
        )  # fmt: skip
    return TokenScores(values.detach().sum(-1)[0].float().cpu(), float(error))


def token_curve(
    network: Any,
    tokens: Sequence[int],
    values: Tensor,
    target: int,
    *,
    insertion: bool = False,
    steps: int = 16,
    batch_size: int = 8,
) -> Curve:
    """The target's probability while tokens are taken away, those with the largest values first, or brought back.

    Source: Petsiuk et al. 2018 (arXiv:1806.07421), section 4.2, with tokens in place of pixels; a token that is gone
    has the mean embedding.

    Args:
        values: of the tokens, (l,).
        insertion: begin without tokens and bring them back.
        steps: how many times the model is run, besides once with the whole sequence.
    """
    through, length = FromEmbeddings(network), len(tokens)
    embedded = through.embed(tokens)
    gone = through.baseline().expand_as(embedded)
    before, after = (gone, embedded) if insertion else (embedded, gone)
    rank = torch.empty(length, dtype=torch.int64)
    rank[values.argsort(descending=True, stable=True)] = torch.arange(length)
    counts = torch.linspace(0, length, min(steps, length) + 1).round().long()
    changed = (rank < counts[:, None])[..., None].to(embedded.device)
    found = []
    with evaluation(network), torch.inference_mode():
        for rows in changed.split(batch_size):
            logits = through(torch.where(rows, after, before).to(embedded.dtype))
            found.append(logits.float().softmax(-1)[:, target].cpu())
    return Curve(counts / length, torch.cat(found)[None])


def random_curve(network: Any, tokens: Sequence[int], target: int, *, orders: int, seed: int, **options: Any) -> Curve:
    """The mean of `token_curve` over random orders of the tokens, with which one in a meaningful order is compared."""
    generator = torch.Generator().manual_seed(seed)
    curves = [
        token_curve(network, tokens, torch.rand(len(tokens), generator=generator), target, **options)
        for _ in range(orders)
    ]
    return Curve(curves[0].shares, torch.stack([curve.probability for curve in curves]).mean(0))


def token_attention(network: Any, tokens: Sequence[int]) -> dict[str, Tensor]:
    """Hidden attention of every scan, by layer: how much each token gives to the last one, (l,), absolute means over
    channels; of a classifier that takes the mean over tokens, to all tokens together. Empty without such layers.
    """
    device = network.backbone.embedding.weight.device
    try:
        calls = scans_of(network, torch.as_tensor(tokens, device=device)[None])
    except ModelError:  # a network of attention alone has no scan
        return {}
    query = None if getattr(network, "pool", "last") == "mean" else [len(tokens) - 1]
    return {call.name: call.mean_attention(query)[0].mean(0).float().cpu() for call in calls}
