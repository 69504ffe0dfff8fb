"""ScienceQA's problems.json as records: question, context, options, answered by lecture, solution, letter (QCM-LEA).

Source: Lu et al. 2022 (arXiv:2209.09513); the form is the one that LLaVA trains on.
"""

from typing import Any

from ssmlab.data.conversations.found import BadRecord, Problem, Row, Rows, make_turns
from ssmlab.data.conversations.record import HUMAN, MARK, MODEL, Turn

OPTIONS = "ABCDE"
PARTS = ("train", "val", "test")
LETTER_ONLY = "Answer with the option's letter from the given choices directly."


def is_scienceqa(values: Any) -> bool:
    """Whether a JSON value is a table of problems by their numbers."""
    first = next(iter(values.values()), None) if isinstance(values, dict) else None
    return isinstance(first, dict) and {"question", "choices", "answer"} <= first.keys()


def read_scienceqa(values: dict[str, Any], part: str | None, text_only: bool) -> Rows:
    """The problems of a part, or all, in the order of the file; the index is that of the file."""
    found = Rows(folders=("", "images"))
    for index, (id, problem) in enumerate(values.items()):
        if part is not None and isinstance(problem, dict) and problem.get("split") != part:
            continue
        try:
            check_problem(problem)
            if part is None and problem.get("split") not in (*PARTS, None):
                raise BadRecord(f"split must be one of {', '.join(PARTS)}, got {problem['split']!r}")
            name = None if text_only else problem.get("image")
            images = (f"{problem.get('split', '')}/{id}/{name}",) if name else ()
            text = question_text(problem)
            turns = [Turn(HUMAN, f"{MARK}\n{text}" if images else text), Turn(MODEL, answer_text(problem))]
            found.rows.append(Row(index, id, images, make_turns(turns, len(images), True), {"pid": id, **problem}))
        except BadRecord as error:
            found.problems.append(Problem(index, id, str(error)))
    return found


def check_problem(problem: Any) -> None:
    """Refuse a problem that has no question, choices or answer.

    Raises:
        BadRecord: the reason.
    """
    if not isinstance(problem, dict):
        raise BadRecord(f"an object is expected, got {type(problem).__name__}")
    choices, answer = problem.get("choices"), problem.get("answer")
    if not isinstance(problem.get("question"), str) or not problem["question"].strip():
        raise BadRecord("no question")
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(OPTIONS):
        raise BadRecord(f"choices must be a list of 2 to {len(OPTIONS)}")
    if not all(isinstance(choice, str) for choice in choices):
        raise BadRecord("every choice must be a text")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise BadRecord(f"answer must be the number of a choice from 0 to {len(choices) - 1}, got {answer!r}")
    if any(not isinstance(problem.get(key) or "", str) for key in ("hint", "lecture", "solution", "image")):
        raise BadRecord("hint, lecture, solution and image must be texts")


def question_text(problem: dict[str, Any], *, letter_only: bool = False) -> str:
    """Question, context and options (QCM).

    Args:
        letter_only: ask for the letter alone, as LLaVA 1.5 is asked without training on this data set.
    """
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(OPTIONS, problem["choices"], strict=False))
    context = (problem.get("hint") or "").strip() or "N/A"
    text = f"{problem['question']}\nContext: {context}\nOptions: {options}".replace("  ", " ")
    return text.replace("Question: ", "").strip() + (f"\n{LETTER_ONLY}" if letter_only else "")


def answer_text(problem: dict[str, Any]) -> str:
    """Lecture, solution and letter (LEA)."""
    parts = [problem.get("lecture") or "", problem.get("solution") or ""]
    text = f"Answer: {' '.join(parts)} The answer is {OPTIONS[problem['answer']]}.".replace("  ", " ")
    return text.replace("Answer: ", "").strip()
