"""LLaVA with any language model that takes a state and returns one: encoder, projector, language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.generation.prompt_state import PromptState
from ssmlab.generation.sampling import CHUNK
from ssmlab.models.entry import Preset
from ssmlab.models.language.tokens import last_token, of_tokens
from ssmlab.models.registry import create_model, kind_of
from ssmlab.models.vision_language.config import TRANSFORMERS, LlavaConfig
from ssmlab.models.vision_language.encoder import Encoders, hash_weights
from ssmlab.models.vision_language.pixels import picture_of
from ssmlab.models.vision_language.projectors import Projector
from ssmlab.models.vision_language.reading import Answer, Read, Speech, ask, ask_all, read_image
from ssmlab.models.vision_language.transformer_half import TransformersLanguageModel

PARTS = ("encoder", "projector", "language")


@dataclass
class Counts:
    """What a model has done since it was built, so that reading an image once can be counted and not only timed.

    encoder_calls: images that went through the encoder. image_tokens: positions of images that the language model
    read. prefix_tokens: positions that were read before a question. question_tokens: those of questions.
    """

    encoder_calls: int = 0
    image_tokens: int = 0
    prefix_tokens: int = 0
    question_tokens: int = 0


class LlavaMamba(nn.Module):
    """Images and text to logits.

        tokens of an image = projector(encoder(image)); they stand where the text has its images, among embedded tokens

    Source: LLaVA (Liu et al. 2023, arXiv:2304.08485; 1.5: arXiv:2310.03744), with a state space language model as in
    Cobra (arXiv:2403.14520) and VL-Mamba (arXiv:2403.13600). Images are spliced in by a mask: a position is one of an
    image or one of text, by construction.

    Args:
        config: see `LlavaConfig`.
        encoders, language: with weights; None builds them with initial ones.
    Attributes:
        speech: what turns conversations into tokens and back; `tasks.vision_language.use.open_model` sets it.
        counts: see `Counts`.
        reduce: fewer image tokens, (values (b, n, c), grid) -> (values, grid); None takes all. Set by `prune`.
    """

    registry_name: str = "llava_mamba"

    def __init__(self, config: LlavaConfig, *, encoders: Sequence[Any] = (), language: Any = None):
        super().__init__()
        self.encoder = Encoders(config.encoders, encoders)
        self.language: Any = build_language(config.language) if language is None else language
        p = config.projector
        self.projector = Projector(
            self.encoder.channels, self.language.config.d_model, p.kind, depth=p.depth, factor=p.factor,
            queries=p.queries, norm=p.norm, newline=p.newline,
        )  # fmt: skip
        self.image_tokens, _ = self.projector.grid_of(self.encoder.count, self.encoder.grid)
        self.config = replace(config, language=described(self.language))
        self.speech: Speech | None = None
        self.counts = Counts()
        self.reduce: Any = None
        self._hashes: dict[str, str] = {}

    @property
    def device(self) -> torch.device:
        return self.language.backbone.embedding.weight.device

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """The encoder's features of pictures, (b, n, c); gradients are not kept."""
        rows = [self.encoder.pixels(picture_of(picture)) for picture in pictures]
        inputs = [torch.stack(column).to(self.device) for column in zip(*rows, strict=True)]
        self.counts.encoder_calls += len(pictures)
        return self.encoder([x.to(next(self.encoder.parameters()).dtype) for x in inputs]).values

    def project(self, features: Tensor) -> Tensor:
        """Features (b, n, c) -> the tokens that the language model reads, (b, m, d_model)."""
        grid = self.encoder.grid
        if self.reduce is not None:
            features, grid = self.reduce(features, grid)
        return self.projector(features, grid)

    def embed(self, ids: Tensor, images: Tensor | None = None) -> Tensor:
        """Embedded tokens with the images' spliced in.

        Args:
            ids: int64 (b, l), -1 where a token of an image stands.
            images: (k, d_model), the tokens of all images in the order in which their places stand, row by row.
        Returns:
            (b, l, d_model).
        Raises:
            ShapeError: there are other places than tokens.
        """
        text = self.language.backbone.embedding(ids.clamp(min=0))
        places = ids < 0
        count, given = int(places.sum()), 0 if images is None else len(images)
        if count != given:
            raise ShapeError(f"the text has places for {count} image tokens, {given} are given")
        if images is None or not given:
            return text
        return text.masked_scatter(places[..., None], images.to(text.dtype))

    def forward(
        self,
        ids: Tensor,
        images: Tensor | None = None,
        state: tuple | None = None,
        *,
        mask: Tensor | None = None,
        last_only: bool = False,
    ) -> tuple[Tensor, tuple]:
        """Logits and the state after the last position.

        Args:
            ids, images: as for `embed`; `images` is what `project` returns, flattened to (k, d_model).
            state: of what comes before.
            mask: bool (b, l), True = token or image; padding may stand anywhere.
            last_only: logits of each row's last position alone.
        Returns:
            Logits (b, l, vocabulary), or (b, 1, vocabulary), and the language model's state.
        """
        hidden, after = self.hidden(ids, images, state, mask=mask)
        return self.head(last_token(hidden, mask) if last_only else hidden), after

    def hidden(
        self, ids: Tensor, images: Tensor | None = None, state: tuple | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, tuple]:
        """As `forward`, the features (b, l, d_model) before the head."""
        return self.language.backbone(self.embed(ids, images), state, mask=mask)

    def head(self, hidden: Tensor) -> Tensor:
        """Features (..., d_model) to logits (..., vocabulary)."""
        return of_tokens(self.language.lm_head(hidden), self.language.config)

    @torch.no_grad()
    def read(
        self,
        rows: Sequence[Sequence[int]],
        images: Sequence[Tensor | None] | None = None,
        reading: PromptState | None = None,
        *,
        chunk: int = CHUNK,
    ) -> PromptState:
        """Read texts with images, of any lengths.

        Args:
            rows: tokens of every row, -1 where a token of an image stands.
            images: the tokens (k, d_model) of every row's images, None for a row without.
            reading: what comes before: of as many rows, or of one, which then comes before all of them.
            chunk: positions that are read at once.
        Returns:
            The reading. Its `tokens` are those of the text, without places of images; where a text has none it is the
            token that begins an answer's search for repetitions, 0.
        """
        images = images or [None] * len(rows)
        if reading is not None and len(reading.tokens) != len(rows):
            reading = reading.select([0] * len(rows))
        longest = max(map(len, rows))
        if longest == 0:
            if reading is None:
                raise ModelError("there is nothing to read; give an image or a text")
            return reading
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=self.device)
        lengths = torch.tensor([[len(row)] for row in rows], device=self.device)
        mask = torch.arange(longest, device=self.device) >= longest - lengths
        given = [part for part in images if part is not None]
        embedded = self.embed(ids, torch.cat(given) if given else None)
        full, out = bool(mask.all()), None
        state, logits = (None, None) if reading is None else (reading.state, reading.logits)
        for begin in range(0, longest, chunk):
            part = slice(begin, begin + chunk)
            seen = None if full else mask[:, part]
            hidden, state = self.language.backbone(embedded[:, part], state, mask=seen)
            out = last_token(hidden, seen)
        assert out is not None and state is not None
        last = self.head(out)[:, -1]
        if logits is not None:  # a row without new tokens is where it was
            last = torch.where(mask.any(1, keepdim=True), last, logits)
        self.counts.image_tokens += int((ids < 0).sum())
        before = ((),) * len(rows) if reading is None else reading.tokens
        text = tuple(
            (*old, *(token for token in new if token >= 0)) or (0,) for old, new in zip(before, rows, strict=True)
        )
        return PromptState(text, last, state)

    def hashes(self) -> dict[str, str]:
        """What a saved state belongs to: all weights, and what images go through. Computed once; `forget_hashes`
        after weights were changed."""
        if not self._hashes:
            self._hashes = {"weights": hash_weights(self), "preprocessing": self.encoder.preprocessing_hash()}
        return dict(self._hashes)

    def forget_hashes(self) -> None:
        """The weights have changed."""
        self._hashes = {}

    def train(self, mode: bool = True) -> LlavaMamba:
        """As of any module; it forgets the hashes of its weights, which training changes."""
        self.forget_hashes()
        return super().train(mode)

    def read_image(self, images: Any) -> Read:
        """Read one image or several, once; any number of questions goes on from there. See `reading.read_image`."""
        return read_image(self, images)

    def ask(self, images: Any, question: str, **options: Any) -> Answer:
        """Read images and answer one question."""
        return ask(self.read_image(images), question, **options)

    def ask_all(self, reads: Sequence[Read], questions: Sequence[str], **options: Any) -> list[Answer]:
        """Answer one question for each of several reads, as a batch."""
        return ask_all(self, reads, questions, **options)

    def no_weight_decay(self) -> set[str]:
        """Parameters that decay would pull away from their meaning."""
        spared: Any = getattr(self.language, "no_weight_decay", set)
        return {f"language.{name}" for name in spared()}


def build_language(config: dict[str, Any]) -> Any:
    """The language model that a config names, with initial weights.

    Raises:
        ModelError: there is none of that name.
    """
    values = dict(config)
    name = values.pop("model")
    if name == TRANSFORMERS:
        return TransformersLanguageModel(values.get("config", {}))
    if kind_of(name) != "language":
        raise ModelError(f"language must be a language model of the table or 'transformers', got {name!r}")
    return create_model(name, **values)


def described(language: Any) -> dict[str, Any]:
    """What `build_language` builds a language model from."""
    if isinstance(language, TransformersLanguageModel):
        return {"model": TRANSFORMERS, "config": language.original}
    from dataclasses import asdict

    return {"model": language.registry_name} | asdict(language.config)


TEST = {
    "encoders": ({"name": "medmamba_test", "image_size": 64},),
    "language": {"model": "mamba_lm_test", "vocab_size": 300},
    "projector": {"kind": "mlp"},
}
# LLaVA-1.5's image encoder, with the smallest of the published Mambas
CLIP = {
    "encoders": ({"name": "timm/vit_large_patch14_clip_336", "image_size": 336, "layer": -2, "fit": "pad"},),
    "language": {"model": "mamba_lm_130m"},
}
CONFIGS: dict[str, Preset] = {
    "llava_mamba": Preset(LlavaMamba, LlavaConfig, CLIP),
    "llava_mamba_test": Preset(LlavaMamba, LlavaConfig, TEST),
}
