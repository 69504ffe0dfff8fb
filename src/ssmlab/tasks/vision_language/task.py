"""Answers to questions about images as a task: the loss of answers alone, after the image and the question."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.tasks.language.task import CORRECT, COUNT, IGNORE, NLL


@dataclass(frozen=True, kw_only=True)
class VisionLanguage:
    """Cross-entropy of the answers' tokens, a mean over all of a batch.

    The outputs of a row are three sums: nats, tokens that were predicted, tokens that were correct.
    """

    higher_is_better: ClassVar[bool] = False
    primary_metric: ClassVar[str] = "loss"

    def collate(self, items: list[Any]) -> dict[str, Tensor]:
        """A batch of {"ids", "labels", and "features" (k, n, c) or "pixels0" (k, 3, h, w), ...}, filled up at the end.

        `ids` are -1 where a token of an image stands; `labels` are what follows each position, -100 where nothing is
        learned. A record without images has no features. Items of several records have their "lengths", all with the
        images of the item; `loss` takes them apart.
        """
        pad = nn.utils.rnn.pad_sequence
        batch = {
            "ids": pad([torch.as_tensor(item["ids"]).long() for item in items], batch_first=True),
            "labels": pad(
                [torch.as_tensor(item["labels"]).long() for item in items], batch_first=True, padding_value=IGNORE
            ),
        }
        if any("lengths" in item for item in items):
            batch["lengths"] = pad([torch.as_tensor(item["lengths"]) for item in items], batch_first=True)
        for name in dict.fromkeys(name for item in items for name in item if name not in batch):
            batch[name] = torch.cat([torch.as_tensor(item[name]) for item in items if name in item])
        return batch

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The mean over the batch's predicted tokens in nats, and the sums (b, 3) of every row.

        Logits are computed where something is learned, and nowhere else.

        Args:
            batch: as `collate` makes it; of a piece of a step with "totals", by which the sum is divided instead.
        """
        network: Any = model
        ids, labels, images = batch["ids"], batch["labels"], image_tokens(network, batch)
        owner = torch.arange(len(ids), device=ids.device)  # the batch's row of every record
        if "lengths" in batch:
            ids, labels, images, owner = apart(batch, images)
        hidden, _ = network.hidden(ids, images)
        learned = labels != IGNORE
        logits = network.head(hidden[learned]).float()
        nll = F.cross_entropy(logits, labels[learned], reduction="none")
        rows = owner[learned.nonzero()[:, 0]]
        with torch.no_grad():
            columns = (nll.detach(), torch.ones_like(nll), (logits.argmax(-1) == labels[learned]).float())
            sums = torch.zeros(len(batch["labels"]), 3, device=labels.device)
            for column, values in zip((NLL, COUNT, CORRECT), columns, strict=True):
                sums[:, column] = sums[:, column].index_add(0, rows, values.to(sums.dtype))
        return nll.sum() / (batch["totals"][0] if "totals" in batch else max(1, len(nll))), sums

    def counts(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """What the loss is a mean over: predicted tokens."""
        return (batch["labels"] != IGNORE).sum()[None]

    def rows(self, batch: dict[str, Tensor], part: slice) -> dict[str, Tensor]:
        """Rows of a batch with their images, of which all have equally many tokens."""
        own = [name for name in batch if name in ("ids", "labels", "lengths")]
        found = {name: batch[name][part] for name in own}
        tokens = (batch["ids"] == -1).sum(1).cpu()
        if "lengths" in batch:  # every record of a row has the places of its images
            tokens = tokens // (batch["lengths"] > 0).sum(1).cpu()
        for name in batch.keys() - found.keys():
            ends = (tokens.cumsum(0) * len(batch[name]) // tokens.sum().clamp(min=1)).tolist()
            first = ends[part.start - 1] if part.start else 0
            if (last := ends[part.stop - 1]) > first:
                found[name] = batch[name][first:last]
        return found

    def outputs(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The sums (b, 3) of every row."""
        return self.loss(model, batch)[1]

    def count_correct(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Correct tokens, and all that were predicted."""
        return outputs[:, CORRECT].sum(), outputs[:, COUNT].sum()

    def validation(self, outputs: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
        """Loss in nats a token, perplexity and the share of correct tokens, of all rows (n, 3)."""
        nll, count, correct = outputs.astype(np.float64).sum(0)
        loss = nll / max(count, 1)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700)), "token_accuracy": correct / max(count, 1)}


def image_tokens(network: Any, batch: dict[str, Tensor]) -> Tensor | None:
    """The tokens (k, d_model) of a batch's images: from features that are kept, or from pixels through the encoder."""
    if "features" in batch:
        return network.project(batch["features"]).flatten(0, 1)
    inputs = [batch[f"pixels{i}"] for i in range(len(network.encoder.each)) if f"pixels{i}" in batch]
    return network.project(network.encoder(inputs).values).flatten(0, 1) if inputs else None


def apart(batch: dict[str, Tensor], images: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """The records of rows that hold several: ids and labels (n, l), the images' tokens for each, and its row (n,).

    Args:
        batch: with "lengths" (b, most), 0 where a row has no more records.
        images: tokens (k, d_model) of the rows' images, each once.
    """
    lengths = batch["lengths"]
    owner, place = (lengths > 0).nonzero(as_tuple=True)
    count, longest = lengths[owner, place], int(lengths.max())
    begin = (lengths.cumsum(1) - lengths)[owner, place]
    inside = torch.arange(longest, device=lengths.device)
    where = (begin[:, None] + inside).clamp(max=batch["ids"].shape[1] - 1)
    there = inside < count[:, None]
    ids = batch["ids"][owner[:, None], where].where(there, 0)
    labels = batch["labels"][owner[:, None], where].where(there, IGNORE)
    if images is not None:
        seen = (batch["ids"] == -1).sum(1) // (lengths > 0).sum(1)  # places of a row's images in each of its records
        pieces = images.split(seen.tolist())
        images = torch.cat([pieces[i] for i in owner.tolist()])
    return ids, labels, images, owner
