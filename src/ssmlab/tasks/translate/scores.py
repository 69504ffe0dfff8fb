"""How good translations are: sacreBLEU and chrF++ with signatures, what went wrong in them, and who is better.

Every sentence's statistics are kept next to its translation, so that scores of any part, intervals and tests need no
second pass, and the report needs no sacrebleu.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ssmlab.core.errors import DataError, UserError
from ssmlab.core.files import write_atomically, write_file
from ssmlab.core.record import Record
from ssmlab.core.statistics import score_interval
from ssmlab.tasks.shared.differences import difference_records

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
        arrays: dict[str, Any] = {"bleu": self.bleu, "chrf": self.chrf, "warnings": np.array(self.warnings, dtype=str)}
        for kind, values in (("value", self.values), ("signature", self.signatures), ("flag", self.flags)):
            arrays |= {f"{kind}:{name}": value for name, value in values.items()}

        def write(path: Path) -> None:
            with open(path, "wb") as file:
                np.savez_compressed(file, **arrays)

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


def score_lines(data: EvaluationSet, lines: Sequence[str], cut: Sequence[bool] = (), tokenize: str = "") -> Scores:
    """Score translations of an evaluation set.

    Args:
        lines: one translation a source, in the same order, as the model's tokenizer decodes them.
        cut: which of them ended because they were as long as allowed; () = none.
        tokenize: of sacreBLEU; "" = its choice for the language, 13a for all but Chinese, Japanese and Korean.
    Raises:
        DataError: there is another number of translations than of sources.
        UserError: sacrebleu or sacremoses is missing.
    """
    if len(lines) != len(data.sources):
        raise DataError(f"there are {len(lines):,} translations of {len(data.sources):,} sources; they need one each")
    lines, references = ([text.replace("\n", " ") for text in texts] for texts in (lines, data.references))
    metrics, moses = require("sacrebleu.metrics"), require("sacremoses").MosesTokenizer(data.target or "en")
    with _warnings() as warnings:
        try:
            bleu = metrics.BLEU(tokenize=tokenize or None, trg_lang=data.target)
        except (RuntimeError, ImportError) as error:  # Japanese and Korean need dictionaries
            raise UserError(
                f"sacreBLEU cannot split {data.target!r} into words: {str(error).splitlines()[0]}"
            ) from None
        scored = {"bleu": _scored(bleu, lines, references)}
    scored["chrf"] = _scored(metrics.CHRF(word_order=_WORDS), lines, references)
    tokens = [[moses.tokenize(text, escape=False, return_str=True) for text in texts] for texts in (lines, references)]
    scored["bleu_tokenised"] = _scored(metrics.BLEU(lowercase=True, tokenize="none", force=True), *tokens)
    signatures = {name: signature for name, (_, _, signature) in scored.items()}
    signatures["bleu_tokenised"] += f"|moses:{data.target or 'en'}"
    words = [sum(len(text.split()) for text in texts) for texts in (lines, references)]
    values = {name: value for name, (value, _, _) in scored.items()} | {"length_ratio": words[0] / max(words[1], 1)}
    flags = flags_of(data, lines, cut)
    return Scores(lines, values, signatures, scored["bleu"][1], scored["chrf"][1], flags, tuple(warnings))


def validation_scores(data: EvaluationSet, lines: Sequence[str]) -> dict[str, float]:
    """BLEU and chrF++ alone, as `score_lines` has them: for the decoding of the validation part in training."""
    metrics, references = require("sacrebleu.metrics"), list(data.references)
    with _warnings():
        bleu = metrics.BLEU(trg_lang=data.target).corpus_score(list(lines), [references]).score
    return {"bleu": bleu, "chrf": metrics.CHRF(word_order=_WORDS).corpus_score(list(lines), [references]).score}


def _scored(metric: Any, lines: list[str], references: list[str]) -> tuple[float, np.ndarray, str]:
    """What `metric.corpus_score` returns, every sentence's statistics, and the signature."""
    statistics = metric._extract_corpus_statistics(lines, [references])
    value = metric._aggregate_and_compute(statistics).score
    return float(value), np.array(statistics, dtype=np.int32), str(metric.get_signature())


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What sacreBLEU logs meanwhile, instead of on stderr."""
    found: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("sacrebleu")
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def bleu_of(sums: np.ndarray) -> np.ndarray:
    """BLEU, 0 to 100, with sacreBLEU's default smoothing (exponential; method 3 of Chen & Cherry 2014).

    Args:
        sums: lengths of the translations and of the references, correct n-grams and all n-grams of orders 1 to 4,
            added up over sentences: (..., 10).
    """
    sums = np.asarray(sums, np.float64)
    length, reference, correct, total = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:]
    misses = np.cumsum((correct == 0) & (total > 0), -1)  # each halves what the order is given, once more than the last
    given = np.where(correct > 0, correct, 0.5**misses)
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log(given / total).mean(-1) + np.minimum(0, 1 - reference / length)
    return np.where(correct.any(-1) & (total > 0).all(-1), 100 * np.exp(log), 0.0)


def chrf_of(sums: np.ndarray) -> np.ndarray:
    """chrF++, 0 to 100: F2 of the mean precision and recall of n-grams of 1 to 6 characters and of 1 to 2 words.

    Source: Popović 2017, "chrF++: words helping character n-grams"; orders that one side lacks are left out, as in
    sacreBLEU.

    Args:
        sums: for every order, n-grams of the translations, of the references, and those of both: (..., 24).
    """
    by_order = np.asarray(sums, np.float64).reshape(*np.shape(sums)[:-1], _CHARACTERS + _WORDS, 3)
    hypothesis, reference, match = np.moveaxis(by_order, -1, 0)
    known = (hypothesis > 0) & (reference > 0)
    count = np.maximum(known.sum(-1), 1)
    precision, recall = ((known * match / np.maximum(all_, 1)).sum(-1) / count for all_ in (hypothesis, reference))
    return 100 * 5 * precision * recall / np.maximum(4 * precision + recall, 1e-300)


def flags_of(data: EvaluationSet, lines: Sequence[str], cut: Sequence[bool] = ()) -> dict[str, np.ndarray]:
    """Which translations went wrong in a way that can be counted.

    empty: nothing but spaces, where the reference has a text. cut: as given. looping: at least three 3-grams of words
    (of characters where there are no spaces) more than in the reference are repetitions. copied: the source as it is,
    where the reference is not. same: the translation of another source too, whose reference is another.
    """
    references_of: dict[str, set[str]] = {}
    for line, reference in zip(lines, data.references, strict=True):
        references_of.setdefault(line.strip(), set()).add(reference.strip())
    found = {name: np.zeros(len(lines), bool) for name in COUNTS}
    found["cut"][: len(cut)] = cut
    for i, (source, reference, line) in enumerate(zip(data.sources, data.references, lines, strict=True)):
        source, reference, line = source.strip(), reference.strip(), line.strip()
        found["empty"][i] = not line and bool(reference)
        found["looping"][i] = _repetitions(line) - _repetitions(reference) >= 3
        found["copied"][i] = line == source != reference
        found["same"][i] = bool(line) and len(references_of[line]) > 1
    return found


def _repetitions(text: str) -> int:
    """3-grams that occurred before in the text."""
    units: Sequence[str] = text.split() if " " in text else text
    return sum(count - 1 for count in Counter(zip(units, units[1:], units[2:], strict=False)).values())


def records_of(data: EvaluationSet, scores: Scores, resamples: int = 1000) -> list[Record]:
    """Scores as records of the test part: their unit is the signature, their spread the 95 % interval over sentences.

    BLEU by the source's number of words has the class "sources of 9 to 12 words"; counts have their names.
    """
    n = len(scores.lines)
    records = []
    for metric, statistics, score in (("bleu", scores.bleu, bleu_of), ("chrf", scores.chrf, chrf_of)):
        _, low, high = score_interval(statistics[None], score, resamples=resamples, bounds=(0.0, 100.0))
        unit, value = scores.signatures[metric], scores.values[metric]
        records.append(Record(metric=metric, value=value, unit=unit, n=n, spread=(low, high)))
    value = scores.values["bleu_tokenised"]
    records.append(Record(metric="bleu_tokenised", value=value, unit=scores.signatures["bleu_tokenised"], n=n))
    records.append(Record(metric="length_ratio", value=scores.values["length_ratio"], unit="fraction", n=n))
    for name in COUNTS:
        records.append(Record(metric=name, value=int(scores.flags[name].sum()), unit="count", n=n))
    words = np.array([len(source.split()) for source in data.sources])
    for least, most in LENGTHS:
        inside = (words >= least) & (words <= most) if most else words >= least
        if inside.any():
            value, low, high = score_interval(
                scores.bleu[None, inside], bleu_of, resamples=resamples, bounds=(0.0, 100.0)
            )
            class_ = f"sources of {least} to {most} words" if most else f"sources of {least} words and more"
            records.append(Record(metric="bleu", value=value, unit=scores.signatures["bleu"], n=int(inside.sum()),
                                  spread=(low, high), class_=class_))  # fmt: skip
    return records


def score_differences(
    arms: dict[str, list[Scores]], resamples: int = 2000, trials: int = 10_000
) -> list[tuple[str, Record]]:
    """Every two arms' difference in BLEU and chrF++ over sentences and seeds, with p-values, by the pair's name.

    The records are those of `tasks.shared.differences.difference_records`; the test is approximate randomisation.

    Args:
        arms: a label and the scores of its seeds, all of the same sentences; a model that was not trained here has one.
            Of two other numbers of seeds p-values take as many as both have.
    """
    records = []
    for metric, score in (("bleu", bleu_of), ("chrf", chrf_of)):
        models = {label: np.stack([getattr(scores, metric) for scores in each]) for label, each in arms.items()}
        records += difference_records(
            metric, models, score, unit="points", resamples=resamples, trials=trials, bounds=(-100.0, 100.0)
        )
    return records
