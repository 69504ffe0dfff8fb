"""Text to token numbers and back: a tokenizer.json, vocab.json with merges.txt, a sentencepiece model, bytes, or bases.

Where a text ends: in training every document is between two marks, the tokenizer's own end where it has one, else
one token more than it has (256 with bytes); `seq_idx` keeps the state from crossing them. preprocess.json keeps that
number, and a model that writes it has come to the end of a text. A prompt is read without a separator before it, as any
stretch of a document is; an empty one is the separator alone, the beginning of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ssmlab.core.errors import DataError
from ssmlab.data.sequences.fasta import BASES, parse_fasta
from ssmlab.data.text.encoding import json_table
from ssmlab.data.text.tokenizer_files import END, MERGES, VOCABULARY, base_tokenizer, byte_tokenizer, merged, written

BYTES = "bytes"
# names that a tokenizer's file may have next to a model's weights, the first that is there is taken
FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", VOCABULARY)
# what ends a text, where no tokenizer_config.json says so
ENDS = (END, "</s>", "<|end_of_text|>", "<eos>")
MOST_BYTES = 260  # a vocabulary up to this size is one of bytes and a few tokens of its own


class Tokenizer(Protocol):
    """The interface of all tokenizers.

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
    """A token is a byte of UTF-8. Numbers from 256 on, which a model may have, have no text.

    Args:
        eos: the one of these that ends a text, if any.
    """

    size = 256

    def __init__(self, eos: int | None = None):
        self.eos = eos

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return list(text.encode("utf-8", "surrogateescape"))

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < 256).decode("utf-8", "replace")


class BaseTokenizer:
    """A token is a base of DNA, by its letter. Other numbers, which a model may have, have no text.

    Args:
        eos: the one of these that ends a sequence, if any.
    """

    size = len(BASES)

    def __init__(self, eos: int | None = None):
        self.eos = eos

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        letters = "".join(text.split())
        if not letters:
            return []
        try:
            (record,) = parse_fasta("", b">\n" + letters.encode())
        except ValueError as error:
            raise DataError(f"the text is no DNA: {str(error).removeprefix('line 2: ')}") from None
        return record.tokens.tolist()

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(BASES[token] for token in tokens if token < len(BASES))


class JsonTokenizer:
    """A tokenizer.json of Hugging Face's tokenizers, e.g. GPT-NeoX's, which the published Mamba models have.

    A vocab.json with merges.txt next to it is read too.

    Raises:
        DataError: the file is missing or is none.
    """

    def __init__(self, path: str | Path):
        from tokenizers import Tokenizer as Rust

        self.path = _existing(path)
        try:
            text = merged(self.path) if self.path.name == VOCABULARY else self.path.read_text("utf-8")
            self._tokenizer = Rust.from_str(text)
        except DataError:
            raise
        except Exception as error:  # the Rust side raises plain Exception
            raise DataError(f"{path} is no tokenizer.json: {_short(error)}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        # The end of a text as a tokenizer_config.json names it; older files write a table around the name
        end = json_table(self.path.with_name("tokenizer_config.json")).get("eos_token")
        ends = (end.get("content") if isinstance(end, dict) else end, *ENDS)
        self.eos = next((token for token in map(self._token, ends) if token is not None), None)

    def _token(self, name: str | None) -> int | None:
        return None if name is None else self._tokenizer.token_to_id(name)

    def name_of(self, token: int) -> str | None:
        """The text of one token, as a text that it is found in has it; None where there is none of that number."""
        return self._tokenizer.id_to_token(token)

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
        found = _beside(path)
        if found is None:
            raise DataError(f"{path} has no tokenizer; one of {', '.join(FILES)} must be there")
        path = found
    return JsonTokenizer(path) if path.suffix == ".json" else SentencePieceTokenizer(path)


def find_tokenizer(folder: str | Path, vocab_size: int, source: str | Path | None = None) -> Tokenizer:
    """The tokenizer in a model's folder; what preprocess.json says, or bytes where the vocabulary is that small.

    One without an end of its own has the separator that was between the documents of the training.

    Args:
        source: another tokenizer than the folder's, as in `load_tokenizer`.
    Raises:
        DataError: there is none, and the tokens are no bytes.
    """
    folder = Path(folder)
    about, path = json_table(folder / "preprocess.json"), _beside(folder)
    kind, separator_id = about.get("kind"), about.get("mark")
    tokenizer: Tokenizer
    if source is not None:
        tokenizer = load_tokenizer(source)
    elif kind == "dna":
        tokenizer = BaseTokenizer()
    elif about.get("tokenizer") == BYTES and vocab_size >= ByteTokenizer.size:
        tokenizer = ByteTokenizer()
    elif path is not None:
        tokenizer = load_tokenizer(path)
    elif kind == "audio":
        raise DataError(f"the tokens of {folder} are samples of sound, which are no text")
    elif 256 <= vocab_size <= MOST_BYTES:
        tokenizer = ByteTokenizer()
    else:
        raise DataError(
            f"{folder} has no tokenizer and {vocab_size} tokens, which are not bytes; "
            f"put {' or '.join(FILES)} there, or name one with --tokenizer (in a recipe with data.tokenizer)"
        )
    if tokenizer.eos is None and isinstance(separator_id, int):
        tokenizer.eos = separator_id
    return tokenizer


def find_ends(folder: str | Path, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """The tokens that end a text of a model: those of generation_config.json or config.json, else its tokenizer's.

    Raises:
        DataError: the configuration names something that is no token.
    """
    for name in ("generation_config.json", "config.json"):
        ends = json_table(Path(folder) / name).get("eos_token_id")
        if ends is not None:
            ends = ends if isinstance(ends, list) else [ends]
            if not all(isinstance(end, int) and end >= 0 for end in ends):
                raise DataError(f"{Path(folder) / name}: eos_token_id must be a token or a list of them, got {ends!r}")
            return tuple(ends)
    return () if tokenizer is None or tokenizer.eos is None else (tokenizer.eos,)


def tokenizer_files(tokenizer: Tokenizer | None, size: int) -> dict[str, str]:
    """What transformers opens for bytes or bases, by the names of the files; nothing for what has a file.

    Args:
        size: tokens of the model; those without a text become special ones.
    """
    if isinstance(tokenizer, ByteTokenizer):
        return written(byte_tokenizer(size, tokenizer.eos))
    if isinstance(tokenizer, BaseTokenizer):
        return written(base_tokenizer(size, tokenizer.eos))
    return {}


def find_special(folder: Path) -> dict[str, int | None]:
    """The numbers of the tokens that begin a text and that fill up a batch, as a model's configuration has them."""
    found: dict[str, int | None] = {"bos_token_id": None, "pad_token_id": None}
    for name in ("config.json", "generation_config.json"):
        values = json_table(folder / name)
        found |= {key: values[key] for key in found if isinstance(values.get(key), int)}
    return found


def _beside(folder: Path) -> Path | None:
    there = [folder / name for name in FILES if (folder / name).is_file()]
    return next((path for path in there if path.name != VOCABULARY or path.with_name(MERGES).is_file()), None)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no tokenizer {path}; give a tokenizer.json, a sentencepiece model, or bytes")
    return path


def _short(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]
