"""How good translations are: sacreBLEU and chrF++ with signatures, what went wrong in them, and who is better.

Every sentence's statistics are kept next to its translation, so that scores of any part, intervals and tests need no
second pass, and the report needs no sacrebleu.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ssmlab.core.errors import DataError, UserError
from ssmlab.core.files import write_atomically, write_file
from ssmlab.core.record import Record
from ssmlab.core.statistics import approximate_randomisation, score_interval

SOURCES, REFERENCES = "test.src", "test.ref"  # in a run's folder
HYPOTHESES, STATISTICS = "test.hyp", "scores.npz"  # in a model's folder
LENGTHS = ((1, 8), (9, 12), (13, 16), (17, 24), (25, 40), (41, 0))  # words of a source; 0 = any number
COUNTS = ("empty", "cut", "looping", "copied", "same")
_CHARACTERS, _WORDS = 6, 2  # orders of n-grams of chrF++


@dataclass(frozen=True)
class EvaluationSet:
    """Sentences that are translated, and what people made of them.

    Args:
        sources, references: one sentence each, as they stand in the files.
        source, target: codes of the languages such as "en"; "" = unknown.
    Raises:
        DataError: there are not as many references as sources, or none.
    """

    sources: Sequence[str]
    references: Sequence[str]
    source: str = ""
    target: str = ""

    def __post_init__(self):
        if len(self.sources) != len(self.references) or not self.sources:
            raise DataError(
                f"there must be one reference for each source, and one at least; got {len(self.sources):,} sources and "
                f"{len(self.references):,} references"
            )

    def save(self, folder: Path) -> None:
        """Write test.src and test.ref, one sentence a line."""
        write_lines(folder / SOURCES, self.sources)
        write_lines(folder / REFERENCES, self.references)


@dataclass(frozen=True)
class Scores:
    """Scores of one model's translations.

    Args:
        lines: the translations.
        values: by metric, "bleu" (13a, cased), "chrf" (chrF++), "bleu_tokenised" (Moses' tokens, lower-cased),
            "length_ratio" (words of the translations by words of the references).
        signatures: how each was computed, of the first three.
        bleu, chrf: every sentence's statistics, which `bleu_of` and `chrf_of` make scores of after they were added up,
            (n, 10) and (n, 24).
        flags: by name of COUNTS, which sentences are empty, cut, looping, copied or the same, (n,) bool.
        warnings: what sacreBLEU says of them, e.g. that they look tokenised.
    """

    lines: Sequence[str]
    values: dict[str, float]
    signatures: dict[str, str]
    bleu: np.ndarray
    chrf: np.ndarray
    flags: dict[str, np.ndarray]
    warnings: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        """Write test.hyp, which `sacrebleu test.ref -i test.hyp` scores alike, and scores.npz."""
        write_lines(folder / HYPOTHESES, self.lines)
        numbers = {f"value:{name}": value for name, value in self.values.items()}
        texts = {f"signature:{name}": np.array(text) for name, text in self.signatures.items()}
        flags = {f"flag:{name}": values for name, values in self.flags.items()}
        arrays: dict[str, Any] = {"bleu": self.bleu, "chrf": self.chrf, "warnings": np.array(self.warnings, dtype=str)}

        def write(path: Path) -> None:
            with open(path, "wb") as file:
                np.savez_compressed(file, **numbers, **texts, **flags, **arrays)

        write_file(folder / STATISTICS, write)

    @staticmethod
    def load(folder: Path) -> "Scores":
        """What `save` wrote.

        Raises:
            DataError: a file is missing or damaged, or they do not belong together.
        """
        try:
            with np.load(folder / STATISTICS) as arrays:
                found = {name: arrays[name] for name in arrays.files}
            parts: dict[str, dict[str, Any]] = {"value": {}, "signature": {}, "flag": {}}
            for name, array in found.items():
                kind, _, key = name.partition(":")
                if key:
                    parts[kind][key] = array if kind == "flag" else array.item()
            lines = read_lines(folder / HYPOTHESES)
            scores = Scores(lines, parts["value"], parts["signature"], found["bleu"], found["chrf"], parts["flag"],
                            tuple(found["warnings"].tolist()))  # fmt: skip
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder} has no scores that can be read ({error}); test the model again") from None
        if len(lines) != len(scores.bleu):
            raise DataError(
                f"{folder / HYPOTHESES} has {len(lines):,} lines, {STATISTICS} counts {len(scores.bleu):,}; test the "
                "model again"
            )
        return scores


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """A file with one text a line; a line feed inside a text is written as a space, or lines would not be aligned."""
    write_atomically(path, "".join(line.replace("\n", " ") + "\n" for line in lines))


def read_lines(path: Path) -> list[str]:
    """The texts of such a file. Only a line feed ends a line: U+2028 and the like belong to the text."""
    return path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")


def require(package: str) -> ModuleType:
    """A package of the extra "translation".

    Raises:
        UserError: it is not installed; names the extra.
    """
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError:
        raise UserError(f"scoring translations needs {package}: pip install 'ssmlab[translation]'") from None
