"""Scores of short answers: VQA's exact match and POPE's yes or no; answers are lines with question_id and text."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmlab.core.errors import DataError
from ssmlab.core.statistics import Interval, mean_interval, wilson
from ssmlab.data.contents import count, some
from ssmlab.data.conversations.found import read_json
from ssmlab.data.conversations.reader import read_conversations

TEXT_KEYS = ("text", "answer", "output", "caption")
ID_KEYS = ("question_id", "id", "image_id", "image")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(n) for n, word in enumerate(_WORDS)} | {"none": "0"}
_ARTICLES = ("a", "an", "the")


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a JSON list or of JSON lines.

    Raises:
        DataError: something else is among them, by place.
    """
    values = read_json(Path(path).expanduser())
    rows = values if isinstance(values, list) else [values]
    bad = [n for n, row in enumerate(rows) if not isinstance(row, dict)]
    if bad or not rows:
        raise DataError(f"{path}: {f'records {some(map(str, bad))} are no objects' if bad else 'holds nothing'}")
    return rows


def texts_by_id(path: str | Path, keys: Sequence[str] = TEXT_KEYS) -> dict[str, str]:
    """Question's id -> text of a file of answers; without ids the place in the file.

    Raises:
        DataError: a record has no text, or an id comes twice; all by place.
    """
    found: dict[str, str] = {}
    bad, twice = [], []
    for n, row in enumerate(read_rows(path)):
        text = next((row[key] for key in keys if isinstance(row.get(key), str)), None)
        id = str(next((row[key] for key in ID_KEYS if row.get(key) is not None), n))
        if text is None:
            bad.append(n)
        elif id in found:
            twice.append(id)
        else:
            found[id] = text
    if bad or twice:
        what = [f"records {some(map(str, bad))} have none of {', '.join(keys)}"] * bool(bad)
        what += [f"answers of {some(twice)} come more than once"] * bool(twice)
        raise DataError(f"{path}: {'; '.join(what)}")
    return found


def normalise(text: str) -> str:
    """An answer as VQA compares it: lower case, no punctuation, numbers as figures, no articles.

    Source: Antol et al. 2015 (arXiv:1505.00468), evaluation. Apostrophes are taken away on both sides, which makes
    "dont" and "don't" equal without a list of contractions.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip().lower()
    text = re.sub(r"(?<=\d),(?=\d)", "", text.replace("'", ""))
    text = re.sub(r"[^\w\s.%$]|_", " ", text)
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", "", text)
    return " ".join(_NUMBERS.get(word, word) for word in text.split() if word not in _ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """VQA's accuracy of an answer: with several people's answers the mean over leaving one out of min(1, equal / 3);
    with one reference exact match, 0 or 1.

    Raises:
        ValueError: there is no reference.
    """
    if not references:
        raise ValueError("vqa_accuracy: needs a reference")
    own, others = normalise(answer), [normalise(reference) for reference in references]
    if len(others) == 1:
        return float(own == others[0])
    equal = [own == other for other in others]
    return sum(min(1.0, (sum(equal) - equal[n]) / 3) for n in range(len(equal))) / len(equal)


@dataclass(frozen=True)
class MatchScore:
    """Accuracy of short answers. accuracy: with a 95 % interval (Wilson's of exact matches, else Student's t).
    missing: questions without an answer, which count as wrong."""

    accuracy: Interval
    n: int
    missing: list[str]


def score_vqa(answers: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> MatchScore:
    """VQA's accuracy over all questions that have references.

    Raises:
        DataError: there is none.
    """
    if not references:
        raise DataError("there are no references to compare answers with")
    values = [vqa_accuracy(answers.get(id, ""), known) for id, known in references.items()]
    missing = [id for id in references if id not in answers]
    if all(value in (0.0, 1.0) for value in values) or len(values) < 2:
        mean = sum(values) / len(values)
        interval = Interval(mean, *wilson(round(sum(values)), len(values)))
    else:
        interval = mean_interval(values)
    return MatchScore(interval, len(values), missing)


def read_references(path: str | Path) -> dict[str, list[str]]:
    """Question's id -> right answers: `answer`, or `answers` as texts or as VQA's objects.

    Raises:
        DataError: a record has none, by place.
    """
    found, bad = {}, []
    for n, row in enumerate(read_rows(path)):
        known = row.get("answers", row.get("answer", row.get("label")))
        known = [known] if isinstance(known, str | bool | int) else known
        texts = (
            [one.get("answer") if isinstance(one, dict) else one for one in known] if isinstance(known, list) else []
        )
        if not texts or any(not isinstance(text, str | int) for text in texts):
            bad.append(n)
            continue
        found[str(next((row[key] for key in ID_KEYS if row.get(key) is not None), n))] = [str(text) for text in texts]
    if bad:
        raise DataError(f"{path}: {count(len(bad), 'record')} without answer or answers ({some(map(str, bad))})")
    return found


@dataclass(frozen=True)
class References:
    """Captions by image. images: id of a record -> its image."""

    captions: dict[str, list[str]]
    images: dict[str, str]


def references_of(path: str | Path) -> References:
    """The captions of every image, of any form that `read_conversations` reads; images need not be there.

    Raises:
        DataError: a record cannot be used, all of them by place.
    """
    captions: dict[str, list[str]] = {}
    images: dict[str, str] = {}
    for record in read_conversations(path, text_only=True):
        image = record.source.get("image")
        if not isinstance(image, str):
            raise DataError(f"{path}: record {record.index} ({record.id}) has no image to compare a caption of")
        captions.setdefault(image, []).append(record.answer)
        images[record.id] = image
    return References(captions, images)


def captions_of_answers(path: str | Path, references: References) -> dict[str, str]:
    """Image -> caption of a file of answers, by its image, or by the id of a reference; of several of one image the
    first.

    Raises:
        DataError: a record has no text, or is of no image that has references, by place.
    """
    found: dict[str, str] = {}
    bad = []
    for n, row in enumerate(read_rows(path)):
        names = [row.get("image"), *(references.images.get(str(row.get(key))) for key in ID_KEYS)]
        image = next((name for name in names if isinstance(name, str) and name in references.captions), None)
        text = next((row[key] for key in TEXT_KEYS if isinstance(row.get(key), str)), None)
        if image is None or text is None:
            bad.append(f"record {n}: {'no text' if text is None else 'no image or id that has references'}")
        else:
            found.setdefault(image, text)
    if bad:
        raise DataError(f"{path}: {count(len(bad), 'record')} cannot be compared", bad)
    return found


def says_no(text: str) -> bool:
    """POPE's rule: of the text up to the first full stop, without commas, whether a word is No, not or no.

    Source: Li et al. 2023 (arXiv:2305.10355).
    """
    return any(word in ("No", "not", "no") for word in text.split(".")[0].replace(",", "").split(" "))


@dataclass(frozen=True)
class YesNoScore:
    """POPE's score; "yes" is what is looked for. yes: share of answers that say yes. counts: tp, fp, tn, fn."""

    accuracy: Interval
    precision: float
    recall: float
    f1: float
    yes: float
    n: int
    counts: tuple[int, int, int, int]


def score_pope(answers: Sequence[str], labels: Sequence[str]) -> YesNoScore:
    """POPE's score of answers in the order of the labels "yes" and "no".

    Raises:
        DataError: their numbers differ, there are none, or a label is another word.
    """
    if len(answers) != len(labels) or not labels:
        raise DataError(f"there must be an answer for every label, got {len(answers):,} for {len(labels):,}")
    wrong = sorted(set(labels) - {"yes", "no"})
    if wrong:
        raise DataError(f"labels must be yes or no, got {some(map(repr, wrong))}")
    pairs = [(not says_no(text), label == "yes") for text, label in zip(answers, labels, strict=True)]
    tp, fp, tn, fn = (pairs.count(pair) for pair in ((True, True), (True, False), (False, False), (False, True)))
    precision, recall = tp / max(tp + fp, 1), tp / max(tp + fn, 1)
    return YesNoScore(
        accuracy=Interval((tp + tn) / len(pairs), *wilson(tp + tn, len(pairs))),
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        yes=(tp + fp) / len(pairs),
        n=len(pairs),
        counts=(tp, fp, tn, fn),
    )


def score_pope_by_category(given: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, YesNoScore]:
    """POPE's scores of all questions, and of every category where there are some.

    Args:
        given: question_id -> answer. rows: with question_id, label and category, as POPE's files have them.
    Raises:
        DataError: questions without an answer, or as `score_pope`.
    """
    asked = [(str(row.get("question_id", n)), row) for n, row in enumerate(rows)]
    if missing := [id for id, _ in asked if id not in given]:
        raise DataError(f"no answers to {len(missing):,} questions ({some(missing)})")
    kinds = sorted({str(row["category"]) for _, row in asked if "category" in row})
    groups = {"all": asked} | {kind: [pair for pair in asked if str(pair[1].get("category")) == kind] for kind in kinds}
    return {
        name: score_pope([given[id] for id, _ in pairs], [str(row.get("label", "")) for _, row in pairs])
        for name, pairs in groups.items()
    }
