"""ScienceQA's score by LLaVA's rule: the index of an answer's text, accuracy, and the paper's nine columns.

Source: LLaVA, llava/eval/eval_science_qa.py; the columns are those of ScienceQA's tools/evaluate_acc.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssmlab.core.errors import DataError
from ssmlab.core.statistics import Interval, wilson
from ssmlab.data.contents import count, some
from ssmlab.data.conversations.found import BadRecord, read_json
from ssmlab.data.conversations.scienceqa import OPTIONS, check_problem

FAILED = "FAILED"
COLUMNS = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12", "Avg")
STORED = ("acc", "correct", "count")
_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_ANSWER = re.compile(r"The answer is ([A-Z]).")  # the last sign is any but a line feed: upstream's


def answer_letter(text: str) -> str:
    """The letter that a text answers with, or "FAILED"; the first of these that fits.

    1. the text is one of A to E;
    2. it begins with one of them, a full stop and a blank;
    3. "The answer is X" and one more sign stand in it exactly once; X is any capital letter.
    """
    if text in tuple(OPTIONS):
        return text
    if len(text) >= 3 and text[0] in OPTIONS and text[1:3] == ". ":
        return text[0]
    found = _ANSWER.findall(text)
    return found[0] if len(found) == 1 else FAILED


def answer_index(text: str, choices: int = len(OPTIONS)) -> int:
    """The number of the choice that a text answers with; -1 where it names none, or one that is not there.

    Args:
        choices: how many the problem has.
    """
    letter = answer_letter(text)
    return OPTIONS.index(letter) if letter in OPTIONS[:choices] else -1


@dataclass(frozen=True)
class Answers:
    """Raw answers by problem number.

    texts: what the model wrote. indices: the indices that the file stores, where it does.
    prompts: what the model was asked, where the file says it.
    stored: accuracy and counts as the file has them.
    """

    texts: dict[str, str]
    indices: dict[str, int] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    stored: dict[str, Any] = field(default_factory=dict)


def read_answers(path: str | Path) -> Answers:
    """Answers in LLaVA's forms: {"outputs": {number: text}, "results": ...}, {number: text}, or lines with question_id.

    Raises:
        DataError: the file has another form, or an answer is no text; all of them by number.
    """
    path = Path(path).expanduser()
    values = read_json(path)
    if isinstance(values, dict) and isinstance(values.get("outputs"), dict):
        texts, results = values["outputs"], values.get("results") or {}
        wrong = [pid for pid, index in results.items() if isinstance(index, bool) or not isinstance(index, int)]
        if wrong:
            raise DataError(f"{path}: results of {some(wrong)} are no whole numbers")
        answers = Answers(texts, dict(results), {}, {key: values[key] for key in STORED if key in values})
    elif isinstance(values, dict) and "question_id" not in values:
        answers = Answers(values)
    else:
        rows = values if isinstance(values, list) else [values]
        bad = [
            n for n, row in enumerate(rows) if not isinstance(row, dict) or not {"question_id", "text"} <= row.keys()
        ]
        if bad:
            raise DataError(f"{path}: records {some(map(str, bad))} have no question_id and text")
        texts = {str(row["question_id"]): row["text"] for row in rows}
        if len(texts) != len(rows):
            raise DataError(
                f"{path}: {count(len(rows) - len(texts), 'question_id')} more than once; keep one answer each"
            )
        answers = Answers(texts, prompts={str(row["question_id"]): str(row.get("prompt", "")) for row in rows})
    wrong = [pid for pid, text in answers.texts.items() if not isinstance(text, str)]
    if wrong or not answers.texts:
        raise DataError(f"{path}: {f'answers of {some(wrong)} are no texts' if wrong else 'holds no answers'}")
    return answers


def read_problems(path: str | Path) -> dict[str, dict[str, Any]]:
    """ScienceQA's problems by number.

    Raises:
        DataError: the file is none, with every damaged problem.
    """
    path = Path(path).expanduser()
    values = read_json(path)
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected ScienceQA's problems.json, an object by problem number")
    problems = []
    for pid, problem in values.items():
        try:
            check_problem(problem)
        except BadRecord as error:
            problems.append(f"{pid}: {error}")
    if problems or not values:
        raise DataError(f"{path}: {count(len(problems), 'problem')} cannot be used", problems)
    return values


@dataclass(frozen=True)
class ScienceQAScore:
    """The score of a file of answers.

    Attributes:
        indices: number -> index, of every answer, -1 = none.
        contradictions: numbers whose stored index is not what their text says, with (stored, read from the text).
        failed: numbers whose text names no choice of the problem.
        stored: accuracy and counts as the file has them.
        columns: of `COLUMNS` that hold a problem, (right, n); of the problems given. {} without problems.
        missing: problems without an answer, which count as wrong. unknown: answers without a problem.
    """

    indices: dict[str, int]
    contradictions: dict[str, tuple[int, int]]
    failed: list[str]
    stored: dict[str, Any]
    columns: dict[str, tuple[int, int]]
    missing: list[str]
    unknown: list[str]

    @property
    def accuracy(self) -> Interval | None:
        """Right answers by problems, with Wilson's interval; None without problems."""
        return interval_of(*self.columns["Avg"]) if self.columns else None

    def to_dict(self) -> dict[str, Any]:
        """In LLaVA's form (acc in percent, correct, count, results), and what it lacks."""
        right, n = self.columns.get("Avg", (0, 0))
        return {
            "acc": 100 * right / n if n else None,
            "correct": right if n else None,
            "count": n if n else None,
            "results": self.indices,
            "columns": {name: {"correct": k, "n": m, "acc": 100 * k / m} for name, (k, m) in self.columns.items()},
            "stored": self.stored,
            "contradictions": {pid: {"stored": a, "text": b} for pid, (a, b) in self.contradictions.items()},
            "failed": self.failed,
            "missing": self.missing,
            "without_problem": len(self.unknown),
        }


def score_scienceqa(
    answers: Answers, problems: Mapping[str, Mapping[str, Any]] | None = None, part: str | None = "test"
) -> ScienceQAScore:
    """Read the index of every answer, compare it with the stored one, and count what is right.

    Args:
        problems: ScienceQA's, or some of them; None leaves accuracy and columns out, and every answer has five choices.
        part: of the problems, those that count (LLaVA: test); None takes all.
    Raises:
        DataError: no problem of that part is given.
    """
    problems = problems or {}
    sizes = {pid: len(problem["choices"]) for pid, problem in problems.items()}
    indices = {pid: answer_index(text, sizes.get(pid, len(OPTIONS))) for pid, text in answers.texts.items()}
    wrong = {
        pid: (stored, indices.get(pid, -1)) for pid, stored in answers.indices.items() if stored != indices.get(pid, -1)
    }
    failed = [pid for pid, index in indices.items() if index < 0]
    meant = {pid: row for pid, row in problems.items() if part is None or row.get("split", part) == part}
    if problems and not meant:
        raise DataError(f"none of the {len(problems):,} problems is of part {part}; name another, or take all")
    right = {pid: indices.get(pid) == row["answer"] for pid, row in meant.items()}
    missing = [pid for pid in meant if pid not in indices]
    unknown = [pid for pid in indices if pid not in problems]
    return ScienceQAScore(indices, wrong, failed, answers.stored, nine_columns(meant, right), missing, unknown)


def nine_columns(problems: Mapping[str, Mapping[str, Any]], right: Mapping[str, bool]) -> dict[str, tuple[int, int]]:
    """(right, n) by column: subject, hint, image or neither, grades, all. Columns without a problem are left out.

    Args:
        right: of the problems that count, whether the answer is right.
    """
    found = {name: [0, 0] for name in COLUMNS}
    for pid, correct in right.items():
        problem = problems[pid]
        names = ["Avg", *filter(None, [_SUBJECTS.get(str(problem.get("subject")))])]
        names += ["TXT"] * bool(problem.get("hint")) + ["IMG"] * bool(problem.get("image"))
        names += ["NO"] * (not problem.get("hint") and not problem.get("image"))
        grade = re.fullmatch(r"grade(\d+)", str(problem.get("grade", "")))
        if grade and 1 <= int(grade[1]) <= 12:
            names.append("G1-6" if int(grade[1]) <= 6 else "G7-12")
        for name in names:
            found[name][0] += correct
            found[name][1] += 1
    return {name: (k, n) for name, (k, n) in found.items() if n}


def interval_of(right: int, n: int) -> Interval:
    """A share with Wilson's 95 % interval."""
    return Interval(right / n, *wilson(right, n))
