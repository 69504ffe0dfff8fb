"""One vocabulary of subwords for both languages: a BPE over bytes, learned from the training pairs, lossless.

Tokens are PAD 0, SEP 1 (begins a target), EOS 2, the 256 bytes, then merges. Nothing is normalised: case, blanks and
the composition of characters are kept, and a word of an unknown script is read as bytes. Marks that stand in a text
("</s>") are read as text. A blank is put before every text, so that its first word is the same token as elsewhere.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.core.files import write_atomically

PAD, SEP, EOS = 0, 1, 2
MARKS = ("<pad>", "<sep>", "</s>")
FILE = "tokenizer.json"
LEAST = len(MARKS) + 256
# Words with the blank before them and all their combining marks, single digits, punctuation, blanks
WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
# Up to so many pairs, so many subwords: Gowda & May 2020 (arXiv:2004.02334) find small ones best for few pairs
AUTO = ((3_000, 1_000), (15_000, 2_000), (60_000, 4_000), (1_000_000, 8_000), (4_000_000, 16_000))
MOST = 32_000
_BROKEN = re.compile("([\ud800-\udfff]+)")
_AT_A_TIME = 10_000  # texts


class Subwords:
    """A tokenizer as `train_subwords` makes it, with what `ssmlab.data.text.tokenizers.Tokenizer` asks for.

    Args:
        content: of a tokenizer.json.
    Attributes:
        size: numbers of tokens are below it. pad, sep, eos: of the marks.
    Raises:
        DataError: it is no tokenizer of this form.
    """

    pad, sep, eos = PAD, SEP, EOS

    def __init__(self, content: str):
        from tokenizers import Tokenizer

        self.content = content
        try:
            self._words = Tokenizer.from_str(content)
        except Exception as error:  # the Rust side raises plain Exception
            raise DataError(f"no tokenizer.json: {str(error).strip().splitlines()[0]}") from error
        letters = _letters()
        byte_of = {letter: byte for byte, letter in enumerate(letters)}
        words = [self._words.id_to_token(token) or "" for token in range(self._words.get_vocab_size())]
        known = set(words)
        if tuple(words[: len(MARKS)]) != MARKS or not known.issuperset(letters) or "" in known:
            raise DataError(f"no tokenizer of sentence pairs, whose tokens are {', '.join(MARKS)}, bytes and merges")
        self.size = len(words)
        self._bytes = [b""] * len(MARKS) + [bytes(byte_of[letter] for letter in word) for word in words[len(MARKS) :]]
        self._token_of = [words.index(letter) for letter in letters]
        self._words.encode_special_tokens = True  # marks as text; no part of the file
        self._words.normalizer = None  # the blank before a text is put there below, before pieces of a text it is not

    def __reduce__(self):
        return Subwords, (self.content,)

    @property
    def target(self) -> "Subwords":
        """The tokenizer of targets, which is the same."""
        return self

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token numbers without any mark, whatever `special`, which is the protocol's, says.

        Bytes that were no UTF-8 and were read with errors="surrogateescape" become the tokens of these bytes.
        """
        return self.encode_all([text])[0].tolist()

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of every text, each (n,) int32."""
        found = []
        for begin in range(0, len(texts), _AT_A_TIME):
            some = [f" {text}" if text else "" for text in texts[begin : begin + _AT_A_TIME]]
            broken = {i: text for i, text in enumerate(some) if not text.isascii() and _BROKEN.search(text)}
            whole = ["" if i in broken else text for i, text in enumerate(some)]
            encoded = [np.array(one.ids, np.int32) for one in self._words.encode_batch_fast(whole)]
            for i, text in broken.items():
                tokens: list[int] = []
                for piece in _BROKEN.split(text):
                    if _BROKEN.match(piece):
                        tokens += [self._token_of[byte] for letter in piece for byte in _bytes_of(letter)]
                    else:
                        tokens += self._words.encode(piece).ids
                encoded[i] = np.array(tokens, np.int32)
            found += encoded
        return found

    def decode(self, tokens: Sequence[int], errors: str = "replace") -> str:
        """The text, without marks and without numbers that have none.

        Args:
            errors: what becomes of bytes that are no UTF-8, as in `bytes.decode`; "surrogateescape" keeps them.
        """
        content = b"".join(self._bytes[token] for token in tokens if 0 <= token < self.size)
        return content.removeprefix(b" ").decode("utf-8", errors)

    def save(self, folder: str | Path) -> Path:
        """Write tokenizer.json into a model's folder."""
        write_atomically(Path(folder) / FILE, self.content)
        return Path(folder) / FILE


def load_subwords(path: str | Path) -> Subwords:
    """The tokenizer of a model's folder, or of a file.

    Raises:
        DataError: there is none, or it is of another form.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        return Subwords(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); a translation model has its {FILE} there") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def vocabulary_size(pairs: int) -> int:
    """How many subwords suit so many pairs."""
    return next((size for most, size in AUTO if pairs <= most), MOST)


def train_subwords(texts: Iterable[str], size: int | Literal["auto"] = "auto") -> Subwords:
    """A joint vocabulary, the same for the same texts on every machine.

    Args:
        texts: the sources and targets of the training pairs, and of nothing else.
        size: of the vocabulary; auto: by how many texts there are (`vocabulary_size`). Texts with few words get fewer.
    Raises:
        DataError: there are no texts, or the size has no room for the bytes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    texts = list(texts)
    if not any(texts):
        raise DataError("no text to learn a vocabulary from; give the training pairs")
    wanted = vocabulary_size(len(texts) // 2) if size == "auto" else size
    if wanted < LEAST:
        raise DataError(f"a vocabulary of {wanted:,} has no room for {LEAST} bytes and marks; give at least {LEAST}")
    words = Tokenizer(models.BPE())
    words.normalizer = normalizers.Prepend(" ")
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=wanted,
        min_frequency=2,
        special_tokens=list(MARKS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator((text.encode("utf-8", "replace").decode() for text in texts), trainer)
    return Subwords(words.to_str())


def _letters() -> list[str]:
    """The letter that stands for each byte in a vocabulary of bytes (GPT-2's table)."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=ord)
    plain = {letter for letter in alphabet if ord(letter) < 256}
    others = iter(letter for letter in alphabet if ord(letter) >= 256)  # in the order of the bytes they stand for
    return [chr(byte) if chr(byte) in plain else next(others) for byte in range(256)]


def _bytes_of(letter: str) -> bytes:
    escaped = 0xDC80 <= ord(letter) <= 0xDCFF
    return letter.encode("utf-8", "surrogateescape" if escaped else "surrogatepass")
