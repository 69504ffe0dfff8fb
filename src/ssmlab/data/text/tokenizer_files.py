"""tokenizer.json for tokens that have no file of their own: bytes, bases, and GPT-2's vocab.json with merges.txt.

With these transformers' AutoTokenizer reads what a model of bytes or bases was trained on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ssmlab.core.errors import DataError
from ssmlab.data.sequences.fasta import BASES

FILE, CONFIG, VOCABULARY, MERGES = "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"
END = "<|endoftext|>"
# transformers would else take the class that its table has for the model, with tokens of its own
CLASS = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}


def byte_tokenizer(size: int = 257, separator_id: int | None = 256) -> Any:
    """Bytes: a byte's number is its token. Numbers from 256 on are special tokens, `separator_id` the end of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), key=ord)
    plain = [chr(byte) if chr(byte) in letters else "" for byte in range(256)]
    others = iter(letter for letter in letters if ord(letter) >= 256)  # in the order of the bytes they stand for
    tokenizer = Tokenizer(models.BPE({letter or next(others): byte for byte, letter in enumerate(plain)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_special(tokenizer, range(256, size), separator_id)


def base_tokenizer(size: int = len(BASES) + 1, separator_id: int | None = len(BASES)) -> Any:
    """Bases of DNA by their letters, small ones as capitals, U as T."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokenizer = Tokenizer(models.BPE({base: i for i, base in enumerate(BASES)}, []))
    same = [("U", "T"), ("u", "T"), *((base.lower(), base) for base in BASES)]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(old, new) for old, new in same])
    tokenizer.decoder = decoders.Fuse()
    return _with_special(tokenizer, range(len(BASES), size), separator_id)


def _with_special(tokenizer: Any, numbers: range, separator_id: int | None) -> Any:
    from tokenizers import AddedToken

    names = [END if number == separator_id else f"<|unused{number}|>" for number in numbers]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    return tokenizer


def written(tokenizer: Any) -> dict[str, str]:
    """The files that transformers opens, by name."""
    special = {} if tokenizer.token_to_id(END) is None else {"eos_token": END}
    return {FILE: tokenizer.to_str(pretty=True), CONFIG: json.dumps(CLASS | special, indent=2) + "\n"}


def merged(vocabulary: Path) -> str:
    """A tokenizer.json for a vocab.json and the merges.txt next to it, both of GPT-2's form.

    Raises:
        DataError: one is missing or damaged.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    merges = vocabulary.with_name(MERGES)
    if not merges.is_file():
        raise DataError(f"{vocabulary} needs {MERGES} next to it, which is missing; copy it, or give a {FILE}")
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # the Rust side raises plain Exception
        message = str(error).strip().split("\n")[0]
        raise DataError(f"{vocabulary} and {MERGES} are no tokenizer of GPT-2's form: {message}") from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id(END) is not None:
        tokenizer.add_special_tokens([END])
    return tokenizer.to_str()
