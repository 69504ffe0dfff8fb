"""Text to token numbers and back: a tokenizer.json, a sentencepiece model, or plain bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ssmlab.errors import DataError

BYTES = "bytes"
# names that a tokenizer's file may have beside a model's weights, the first that is there is taken
FILES = ("tokenizer.json", "tokenizer.model", "spiece.model")
# what ends a text, where no tokenizer_config.json says so
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")
MOST_BYTES = 260  # a vocabulary up to this size is one of bytes and a few tokens of its own


class Tokenizer(Protocol):
    """What all tokenizers have.

    size: numbers of tokens are below it.
    eos: the token that ends a text, or None.
    """

    size: int
    eos: int | None

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token numbers; with `special` also those that the tokenizer puts around a text, like one for its start."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, without tokens that only mark something. Broken characters become U+FFFD."""
        ...


class ByteTokenizer:
    """A token is a byte of UTF-8. Numbers from 256 on, which a model may have, have no text."""

    size = 256
    eos: int | None = None

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return list(text.encode("utf-8", "surrogateescape"))

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < 256).decode("utf-8", "replace")


class JsonTokenizer:
    """A tokenizer.json of Hugging Face's tokenizers, e.g. GPT-NeoX's, which the published Mamba models have.

    Raises:
        DataError: the file is missing or is none.
    """

    def __init__(self, path: str | Path):
        from tokenizers import Tokenizer as Rust

        self.path = _existing(path)
        try:
            self._tokenizer = Rust.from_str(self.path.read_text("utf-8"))
        except Exception as error:  # the Rust side raises plain Exception
            raise DataError(f"{path} is no tokenizer.json: {_short(error)}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        ends = (_named_end(self.path.parent), *ENDS)
        self.eos = next((token for token in map(self._token, ends) if token is not None), None)

    def _token(self, name: str | None) -> int | None:
        return None if name is None else self._tokenizer.token_to_id(name)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=special).ids

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)


class SentencePieceTokenizer:
    """A model file of sentencepiece, e.g. Llama's tokenizer.model.

    Raises:
        DataError: the package is not installed, or the file is missing or is none.
    """

    def __init__(self, path: str | Path):
        self.path = _existing(path)
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise DataError(f"{path} needs the package sentencepiece; pip install sentencepiece") from error
        try:
            self._pieces = SentencePieceProcessor(model_proto=self.path.read_bytes())
        except (RuntimeError, ValueError) as error:
            raise DataError(f"{path} is no model of sentencepiece: {_short(error)}") from error
        self.size = len(self._pieces)
        self.eos = self._pieces.eos_id() if self._pieces.eos_id() >= 0 else None

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return self._pieces.encode(text, add_bos=special and self._pieces.bos_id() >= 0)

    def decode(self, tokens: Sequence[int]) -> str:
        return self._pieces.decode([token for token in tokens if token < self.size])


def load_tokenizer(source: str | Path) -> Tokenizer:
    """A tokenizer by the name of its file, of the folder that holds it, or "bytes".

    Raises:
        DataError: there is none of that name, it is damaged, or a package that reads it is missing.
    """
    if str(source) == BYTES:
        return ByteTokenizer()
    path = Path(source)
    if path.is_dir():
        path = _beside(path) or _none(path)
    return JsonTokenizer(path) if path.suffix == ".json" else SentencePieceTokenizer(path)


def find_tokenizer(folder: str | Path, vocab_size: int) -> Tokenizer:
    """The tokenizer in a model's folder; bytes, where there is none and the vocabulary is that small.

    Raises:
        DataError: there is none, and the tokens are no bytes.
    """
    path = _beside(Path(folder))
    if path is not None:
        return load_tokenizer(path)
    if 256 <= vocab_size <= MOST_BYTES:
        return ByteTokenizer()
    raise DataError(
        f"{folder} has no tokenizer and {vocab_size} tokens, which are not bytes; "
        f"put {' or '.join(FILES)} there, or name one with --tokenizer"
    )


def _beside(folder: Path) -> Path | None:
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def _none(folder: Path) -> Path:
    raise DataError(f"{folder} has no tokenizer; one of {', '.join(FILES)} must be there")


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no tokenizer {path}; give a tokenizer.json, a sentencepiece model, or bytes")
    return path


def _named_end(folder: Path) -> str | None:
    """The end of a text as a tokenizer_config.json names it; older files write a table around the name."""
    try:
        end = json.loads((folder / "tokenizer_config.json").read_text("utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return None
    return end.get("content") if isinstance(end, dict) else end


def _short(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]
