"""The texts of a run, whoever reads them, and the tokenizer that a recipe means."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssmlab.data.stream.shuffle import Stream
from ssmlab.data.text.chat_template import ChatTemplate
from ssmlab.data.text.packing import Rows
from ssmlab.data.text.tokenizers import BYTES, Tokenizer, find_tokenizer, load_tokenizer
from ssmlab.models.catalogue import find_weights, is_repository
from ssmlab.models.download import local_folder
from ssmlab.tasks.language.new_tokens import with_new_tokens
from ssmlab.tasks.shared.recipe import AnyRecipe

PARTS = ("train", "val", "test")
UNITS = {"text": "byte", "chat": "byte", "dna": "base", "audio": "sample"}


class TokenStream(NamedTuple):
    """Rows that are read while a model is trained.

    open: gives a new `Stream` of rows. items: rows of an epoch.
    """

    open: Callable[[], Stream]
    items: int


@dataclass(frozen=True, kw_only=True)
class Texts:
    """All parts of a run's data.

    Args:
        rows: by part.
        vocab_size: numbers of tokens are below it, the separator of documents included.
        separator_id: that token.
        unit: what bits are counted by: "byte", "base" or "sample".
        units: by part, how many of them are predicted.
        tokenizer: the file or folder that it came from, "bytes", or "" where tokens are no text.
        describe: what run.json says about the data.
        template: of chats, the form of a message by role, or the tokenizer's own template; None for other data.
        rate: samples per second of sounds, else 0.
        train: the training part where it is read in a stream; `rows["train"]` are then some of it.
    """

    rows: dict[str, Rows]
    vocab_size: int
    separator_id: int
    unit: str
    units: dict[str, int]
    tokenizer: str
    describe: dict
    template: dict[str, str] | ChatTemplate | None = None
    rate: int = 0
    train: TokenStream | None = None


def tokenizer_of(recipe: AnyRecipe) -> tuple[Tokenizer, str]:
    """The tokenizer that a recipe names, else that of the weights that it starts from, else bytes; and its source."""
    named = recipe.data.tokenizer
    folders = start_folders(recipe)
    if named or not folders:
        found = load_tokenizer(named or BYTES)
        return with_new_tokens(recipe, found, str(getattr(found, "path", BYTES)))
    config = json.loads((folders[0] / "config.json").read_text("utf-8"))
    size = (config.get("config") or config).get("vocab_size", 0)
    found = find_tokenizer(folders[0], size)
    return with_new_tokens(recipe, found, str(getattr(found, "path", BYTES)))


def separator_of(tokenizer: Tokenizer) -> int:
    """The token between documents: the tokenizer's own end, or one more than it has."""
    return tokenizer.size if tokenizer.eos is None else tokenizer.eos


def encoded(text: str, tokenizer: Tokenizer, name: str) -> np.ndarray:
    """Tokens of a text; bytes without a detour over lists."""
    if name == BYTES:
        return np.frombuffer(text.encode("utf-8"), np.uint8)
    return np.array(tokenizer.encode(text), np.int32)


def chance_of(rows: dict[str, Rows], metric: str, units: dict[str, int], counts: dict[str, int]) -> dict[str, Any]:
    """What a model reaches on the test part that knows nothing but how frequent tokens are in the training part."""
    train, test = (labels[labels >= 0] for labels in (rows["train"].labels(), rows["test"].labels()))
    seen = np.bincount(train, minlength=int(max(train.max(), test.max())) + 1) + 1.0  # one more, for the unseen
    bits = float(-np.log2(seen / seen.sum())[test].mean()) * counts["test"] / units["test"]
    return {"metric": metric, "value": bits, "of": "the frequencies of tokens alone"}


def start_folders(recipe: Any) -> list[Path]:
    """The folders that the recipe's models start from, of published names as they are on this machine."""
    starts = (model.name if model.pretrained else model.weights for model in recipe.models)
    return [
        local_folder(start) if find_weights(start) is not None or is_repository(start) else Path(start)
        for start in (getattr(recipe, "model", ""), *starts) if start
    ]  # fmt: skip
