"""The tokenizer of OPUS-MT's models: two vocabularies of sentencepiece that share one table of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.core.files import read_json, write_atomically
from ssmlab.data.pairs.subwords import Subwords, load_subwords

PIECES, TABLE, ABOUT = ("source.spm", "target.spm"), "vocab.json", "tokenizer_config.json"
NAMES = {"unk": "<unk>", "eos": "</s>", "pad": "<pad>"}  # where tokenizer_config.json is silent


class MarianPieces:
    """One side of a tokenizer of transformers' `MarianTokenizer`, with the interface of `Subwords`.

    A source ends with the mark of its end, as these models were trained; a target has no mark. Names of languages in
    front, ">>fra<<", are one token. Marks that stand in a text are read as text.

    Args:
        folder: with source.spm, target.spm and vocab.json.
        side: "source" or "target".
    Attributes:
        size: numbers of tokens are below it. pad, eos: marks. sep: begins a target.
        target: the tokenizer of targets.
    Raises:
        DataError: a file is missing or is none, or the package sentencepiece is.
    """

    def __init__(self, folder: str | Path, side: str = "source"):
        self.folder, self.side = folder, side = Path(folder), side
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            raise DataError(f"{folder} needs sentencepiece; pip install 'ssmlab[sentencepiece]'") from None
        about = read_json(folder / ABOUT)
        if about.get("separate_vocabs"):
            raise DataError(f"{folder} has a vocabulary for each language, which no model of ours has")
        try:
            self._pieces = SentencePieceProcessor(model_proto=(folder / PIECES[side == "target"]).read_bytes())
            self._token_of: dict[str, int] = read_json(folder / TABLE)
            marks = {name: self._token_of[_text(about.get(f"{name}_token"), word)] for name, word in NAMES.items()}
        except OSError as error:
            raise DataError(f"{folder} lacks {Path(error.filename).name}; copy the folder again") from error
        except (RuntimeError, ValueError) as error:
            raise DataError(f"{folder / PIECES[side == 'target']} is no model of sentencepiece") from error
        except KeyError as error:
            raise DataError(f"{folder / TABLE} has no token {error}; copy the folder again") from error
        self._unk, self.eos, self.pad = marks["unk"], marks["eos"], marks["pad"]
        self._silent = frozenset(marks.values())
        first = read_json(folder / "preprocess.json").get("separator_id")  # of a model that was trained here
        first = read_json(folder / "config.json").get("decoder_start_token_id") if first is None else first
        self.sep = self.pad if first is None else int(first)
        self._words = {token: word for word, token in self._token_of.items()}
        self.size = max(self._words) + 1

    def __reduce__(self):
        return MarianPieces, (self.folder, self.side)

    @property
    def target(self) -> MarianPieces:
        return self if self.side == "target" else MarianPieces(self.folder, "target")

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token numbers; of a source with the mark of its end, whatever `special`, which is the protocol's, says."""
        code, text = [], text.encode("utf-8", "replace").decode()
        if text.startswith(">>") and (end := text.find("<<")) >= 0:
            code, text = [text[: end + 2]], text[end + 2 :]
        pieces = code + self._pieces.encode(text, out_type=str)
        tokens = [self._token_of.get(piece, self._unk) for piece in pieces]
        return tokens if self.side == "target" else [*tokens, self.eos]

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of every text, each (n,) int32."""
        return [np.array(self.encode(text), np.int32) for text in texts]

    def decode(self, tokens: Sequence[int], errors: str = "replace") -> str:
        """The text, without marks and unknown words. errors: as of `Subwords`; pieces are text already."""
        words = [self._words[token] for token in tokens if token not in self._silent and token in self._words]
        return self._pieces.decode_pieces(words).replace("▁", " ").strip()

    def save(self, folder: str | Path) -> Path:
        """Write the tokenizer's files into a model's folder."""
        for name in (*PIECES, TABLE, ABOUT):
            held = self.folder / name
            write_atomically(Path(folder) / name, held.read_bytes() if held.is_file() else "{}")
        return Path(folder) / TABLE


def load_words(path: str | Path) -> Subwords | MarianPieces:
    """The tokenizer of a translation model's folder, ours or OPUS-MT's. It encodes sources; its `target`, targets.

    Raises:
        DataError: there is none, or it is of another form.
    """
    return MarianPieces(path) if (Path(path) / PIECES[0]).is_file() else load_subwords(path)


def _text(mark: Any, default: str) -> str:
    """The word of a mark, which older files write as a table."""
    return mark.get("content", default) if isinstance(mark, dict) else mark or default
