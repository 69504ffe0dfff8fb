"""Where the time of a vision-language model goes, and what is lost with fewer tokens of the image."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.core.errors import UserError
from ssmlab.core.statistics import wilson
from ssmlab.data.conversations import Conversation, encode
from ssmlab.models.vision_language.reduce import reducer
from ssmlab.profiling import count_flops
from ssmlab.tasks.vision_language.answering import answer_all, same

KEEP = (0.5, 0.25)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to take image tokens.

    method, keep: of `reduce.METHODS` and the share; "all" and 1 for the model as it is.
    tokens: of an image. encoder, projector, reading, writing: median seconds of an image, of its tokens, of reading
    them, and of a token that is written. encoder_macs, projector_macs, reading_macs: multiply-accumulates, None where
    they cannot be counted.
    mean_cosine: of the mean of the kept features with that of all; nearest_cosine: of every feature with the nearest
    that is kept, a mean. kl: of the next token's distribution on the reference answers, in nats. changed: share of
    greedy answers that are other ones than with all tokens; same: of answers that are the references'; n: records.
    """

    method: str
    keep: float
    tokens: int
    encoder: float
    projector: float
    reading: float
    writing: float
    encoder_macs: float | None
    projector_macs: float | None
    reading_macs: float | None
    mean_cosine: float
    nearest_cosine: float
    kl: float
    changed: float
    same: float
    n: int

    def content(self) -> dict[str, Any]:
        """As plain values, with the intervals of what is a share."""
        low, high = wilson(round(self.changed * self.n), self.n)
        return asdict(self) | {
            "changed_interval": [low, high],
            "same_interval": list(wilson(round(self.same * self.n), self.n)),
        }


@torch.no_grad()
def measure(
    model: Any,
    records: Sequence[Conversation],
    methods: Sequence[str],
    keep: Sequence[float],
    *,
    count: int = 32,
    max_tokens: int = 16,
) -> list[Row]:
    """A row for the model as it is, and one for every method and share.

    Args:
        records: with answers, and one image each.
        count: records that are used, evenly from all.
        max_tokens: of an answer.
    Raises:
        UserError: no record has an image.
    """
    seen = [record for record in records if record.images]
    if not seen:
        raise UserError("no record has an image, so nothing of it can be left out")
    step = max(1, len(seen) // count)
    chosen = seen[::step][:count]
    pictures = [model.speech.picture(record.images[0]) for record in chosen]
    features = [model.encode([picture]) for picture in pictures]
    rows: list[Row] = []
    before: tuple[list[Tensor], list[str]] | None = None
    try:
        for method, share in [("all", 1.0), *((method, share) for method in methods for share in keep)]:
            model.reduce = None if method == "all" else reducer(method, share)
            logs = [
                _logs(model, record, [part] * len(record.images)) for record, part in zip(chosen, features, strict=True)
            ]
            answers = [one.text for one in answer_all(model, chosen, batch_size=1, max_tokens=max_tokens)]
            if before is None:
                before = logs, answers
            kl = [
                F.kl_div(now, then, log_target=True, reduction="batchmean")
                for now, then in zip(logs, before[0], strict=True)
            ]
            kept = [part if model.reduce is None else model.reduce(part, model.encoder.grid)[0] for part in features]
            means = [float(F.cosine_similarity(a.mean(1), b.mean(1))) for a, b in zip(kept, features, strict=True)]
            nearest = [
                float((F.normalize(b, dim=-1) @ F.normalize(a, dim=-1).mT).amax(-1).mean())
                for a, b in zip(kept, features, strict=True)
            ]
            n = len(chosen)
            rows.append(
                Row(
                    method=method, keep=share, n=n,
                    **costs_of(model, pictures[: min(n, 5)]),
                    mean_cosine=sum(means) / n, nearest_cosine=sum(nearest) / n,
                    kl=float(torch.stack(kl).mean()),
                    changed=sum(a != b for a, b in zip(answers, before[1], strict=True)) / n,
                    same=sum(same(a, r.answer) for a, r in zip(answers, chosen, strict=True)) / n,
                )
            )  # fmt: skip
    finally:
        model.reduce = None
    return rows


def _logs(model: Any, record: Conversation, features: Sequence[Tensor]) -> Tensor:
    """Log-probabilities (t, vocabulary) where the tokens of the answers of a record are predicted."""
    tokens = torch.cat([model.project(part)[0] for part in features])
    counts = [len(tokens) // len(features)] * len(features)
    found = encode(model.speech.template.pieces(record.turns), model.speech.tokenizer, counts)
    ids = torch.from_numpy(found.ids).long()[None].to(model.device)
    hidden, _ = model.hidden(ids, tokens)
    learned = torch.from_numpy(found.learned)[1:].to(model.device)
    return model.head(hidden[0, :-1][learned]).float().log_softmax(-1)


def costs_of(model: Any, pictures: Sequence[Any]) -> dict[str, Any]:
    """Seconds and operations of the parts, medians over some images."""
    times: dict[str, list[float]] = {"encoder": [], "projector": [], "reading": [], "writing": []}

    def timed(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        begin = time.perf_counter()
        found = call(*arguments)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        times[name].append(time.perf_counter() - begin)
        return found

    prefix: list[int] = []
    for picture in [pictures[0], *pictures]:
        features = timed("encoder", model.encode, [picture])
        tokens = timed("projector", model.project, features)
        prefix = model.speech.prefix([tokens.shape[1]])
        state = timed("reading", model.read, [prefix], [tokens.flatten(0, 1)])
        one = state.logits.argmax(-1, keepdim=True)
        for _ in range(2):
            timed("writing", model.language, one, state.state)
    macs: dict[str, float | None] = {}
    inputs = [x[None].to(model.device) for x in model.encoder.pixels(pictures[0])]
    ids = torch.tensor([prefix], device=model.device)
    for name, module, arguments in (
        ("encoder_macs", _Encoding(model), (inputs,)),
        ("projector_macs", _Projecting(model), (features,)),
        ("reading_macs", _Reading(model, tokens.flatten(0, 1)), (ids,)),
    ):
        try:
            macs[name] = float(count_flops(module, arguments).macs)
        except (RuntimeError, NotImplementedError, AttributeError, TypeError):
            macs[name] = None
    middle = {name: sorted(values[1:])[len(values[1:]) // 2] for name, values in times.items()}
    return {"tokens": tokens.shape[1], **middle, **macs}


class _Part(torch.nn.Module):
    """A step of a model as a module, for the counter of operations."""

    def __init__(self, model: Any, images: Tensor | None = None):
        super().__init__()
        self.model, self.images = model, images


class _Encoding(_Part):
    def forward(self, inputs: Any) -> Tensor:
        return self.model.encoder(inputs).values


class _Projecting(_Part):
    def forward(self, features: Tensor) -> Tensor:
        return self.model.project(features)


class _Reading(_Part):
    def forward(self, ids: Tensor) -> Tensor:
        return self.model.hidden(ids, self.images)[0]


def table(rows: Sequence[Row]) -> str:
    """The rows as text; times in milliseconds, operations in millions."""
    heads = ("tokens", "method", "encoder ms", "projector ms", "reading ms", "a token ms", "encoder MMAC",
             "reading MMAC", "cosine", "nearest", "KL nats", "changed", "right")  # fmt: skip
    lines: list[tuple[str, ...]] = [heads]
    for row in rows:
        macs = ["-" if value is None else f"{value / 1e6:.1f}" for value in (row.encoder_macs, row.reading_macs)]
        name = row.method if row.method == "all" else f"{row.method} {row.keep:.0%}"
        lines.append(
            (str(row.tokens), name, *(f"{1000 * value:.2f}" for value in (row.encoder, row.projector, row.reading,
             row.writing)), *macs, f"{row.mean_cosine:.3f}", f"{row.nearest_cosine:.3f}", f"{row.kl:.4f}",
             f"{row.changed:.0%}", f"{row.same:.0%}")
        )  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    text = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    n = rows[0].n if rows else 0
    return (
        f"{text}\n{n} records; changed and right are shares of the greedy answers; no method saves the encoder's time"
    )
