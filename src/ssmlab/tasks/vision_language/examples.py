"""Records as training reads them: tokens, which of them are learned, and the images' features, right or wrong ones."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ssmlab.core.errors import DataError
from ssmlab.data.conversations import Conversation, Encoded, Template, encode, shorten
from ssmlab.data.text.tokenizers import Tokenizer
from ssmlab.models.vision_language.encoder import Encoders, FeatureCache
from ssmlab.models.vision_language.pixels import grey, picture_of
from ssmlab.tasks.language.task import IGNORE
from ssmlab.tasks.vision_language.use import open_picture

Shown = Literal["own", "other", "grey"]
SHOWN: tuple[Shown, ...] = ("own", "other", "grey")


class Tokens(NamedTuple):
    """Records as tokens.

    rows: one for each record that can be learned. kept: which records these are. cut: how many were shortened.
    """

    rows: list[Encoded]
    kept: list[int]
    cut: int


def tokens_of(
    records: Sequence[Conversation], template: Template, tokenizer: Tokenizer, image_tokens: int, length: int
) -> Tokens:
    """Records as tokens, at most `length` positions each, images included; questions are cut, answers never.

    Raises:
        DataError: images and answer alone are longer, or nothing of a record is learned; all are listed by their place.
    """
    rows, problems, cut = [], [], 0
    for record in records:
        try:
            whole = encode(template.pieces(record.turns), tokenizer, [image_tokens] * len(record.images))
            row = shorten(whole, length)
            if not row.learned[1:].any():
                raise DataError("nothing of it is learned")
        except DataError as error:
            problems.append(f"record {record.index} ({record.id}): {error}")
            continue
        cut += len(row) < len(whole)
        rows.append(row)
    if problems:
        raise DataError(f"{len(problems):,} of {len(records):,} records cannot be learned in {template.name}", problems)
    return Tokens(rows, list(range(len(records))), cut)


class Examples(Dataset):
    """Records as items for `VisionLanguage.collate`.

    Args:
        records, rows: and their tokens.
        cache: of the encoder's features; None: pixels are handed over and the encoder is trained.
        encoders: that see the images.
        shown: own: the images that a record is about; other: those of another record, so that a model that looks is
            wrong; grey: one colour.
        pictures: that are no files, by the names by which records have them.
        joined: records of the same images are one item, "ids" and "labels" one after the other, with their "lengths":
            none sees another, and their images are encoded once.
    """

    unit = "records"

    def __init__(
        self,
        records: Sequence[Conversation],
        rows: Sequence[Encoded],
        encoders: Encoders,
        cache: FeatureCache | None,
        shown: Shown = "own",
        pictures: Mapping[str, Any] | None = None,
        joined: bool = False,
    ):
        self.records, self.rows, self.encoders, self.cache, self.shown = records, rows, encoders, cache, shown
        self.joined, self._given = joined, pictures or {}
        self.pictures = [self._shown(i) for i in range(len(records))]
        together: dict[Any, list[int]] = {}
        for i, record in enumerate(records):
            together.setdefault(record.images if joined and record.images else i, []).append(i)
        self.items = list(together.values())

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        places = self.items[index]
        rows = [self.rows[i] for i in places]
        item: dict[str, Any] = {
            "ids": np.concatenate([row.ids[:-1] for row in rows]),
            "labels": np.concatenate([np.where(row.learned, row.ids, IGNORE)[1:] for row in rows]),
        }
        if self.joined:
            item["lengths"] = np.array([len(row) - 1 for row in rows])
        pictures = self.pictures[places[0]]
        if not pictures:
            return item
        if self.cache is not None:
            found = self.cache.of_keys(pictures, self.open)
            return item | {"features": np.stack(found)}
        columns = zip(*(self.encoders.pixels(self.open(key)) for key in pictures), strict=True)
        return item | {f"pixels{i}": torch.stack(column) for i, column in enumerate(columns)}

    def open(self, key: str) -> Image.Image:
        """The picture of a path or of a name, or the grey one."""
        if key in self._given:
            return picture_of(self._given[key])
        return grey(next(iter(self.encoders)).config) if key == "grey" else open_picture(key)

    def _shown(self, index: int) -> list[str]:
        """Where the pictures of a record are."""
        own = self.records[index].images
        if self.shown == "grey":
            return ["grey"] * len(own)
        if self.shown == "other" and own:
            count = len(self.records)  # the next record whose image is another one and that has as many
            for step in range(1, count):
                other = self.records[(index + step) % count].images
                if len(other) == len(own) and set(other).isdisjoint(own):
                    return list(map(str, other))
        return list(map(str, own))
