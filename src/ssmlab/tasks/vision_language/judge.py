"""A language model as judge: LLaVA's relative score of answers against a reference, and who is right in ScienceQA.

A reply that cannot be read is excluded and counted. It is never a number: LLaVA's own script averages -1 in for it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmlab.core.errors import DataError
from ssmlab.core.statistics import Interval, score_interval, statistics_of, wilson
from ssmlab.data.contents import some
from ssmlab.data.conversations.scienceqa import question_text
from ssmlab.tasks.vision_language.answers import read_rows, texts_by_id
from ssmlab.tasks.vision_language.scienceqa import Answers, answer_index, nine_columns
from ssmlab.tasks.vision_language.writer_options import JudgeOptions
from ssmlab.tasks.vision_language.writers import Writer, in_order

SYSTEM = "You compare the answers of two assistants carefully and without favour."
RULE = {
    "role": "Assistant",
    "prompt": "Two assistants answered the question above, which a person asked about an image. You cannot see the "
    "image; where there is a context, it describes it. Judge how helpful, relevant, accurate and detailed each answer "
    "is and give each a mark from 1 to 10; higher is better. Write the two marks first, alone on one line, those of "
    "Assistant 1 and Assistant 2 with a blank between. Explain them from the next line on. The order of the answers "
    "must not matter.",
}
LEAST, MOST = 0.0, 10.0
Report = Callable[[int, int], Any]


@dataclass(frozen=True)
class Question:
    """One question with the answers that are compared. context: captions and boxes of the image, "" where unknown."""

    id: str
    text: str
    category: str
    reference: str
    answer: str
    context: str = ""


def read_comparison(
    questions: str | Path, references: str | Path, answers: str | Path, context: str | Path | None = None
) -> list[Question]:
    """LLaVA's files of lines: questions (question_id, image, text, category), and two files of answers.

    Args:
        context: lines with image, captions and instances (category and bbox), as caps_boxes_coco2014_val_80.jsonl.
    Raises:
        DataError: a question has no text, or answers are missing, by id.
    """
    known, own = texts_by_id(references), texts_by_id(answers)
    described = {} if context is None else {str(row.get("image")): _context(row) for row in read_rows(context)}
    found, problems = [], []
    for n, row in enumerate(read_rows(questions)):
        id = str(row.get("question_id", n))
        if not isinstance(row.get("text"), str):
            problems.append(f"question {id} has no text")
        elif id not in known or id not in own:
            problems.append(f"question {id} has no {'reference' if id not in known else 'answer'}")
        elif context is not None and str(row.get("image")) not in described:
            problems.append(f"question {id}: no context of image {row.get('image')}")
        else:
            category = str(row.get("category", "all"))
            found.append(
                Question(id, row["text"], category, known[id], own[id], described.get(str(row.get("image")), ""))
            )
    if problems:
        raise DataError(f"{questions}: {len(problems)} questions cannot be compared", problems)
    return found


def read_rules(path: str | Path) -> dict[str, dict[str, str]]:
    """Rules by category in the form of LLaVA's rule.json: {category: {"role", "prompt"}}; "default" is for all others.

    Raises:
        DataError: it has another form.
    """
    try:
        rules = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None
    form = isinstance(rules, dict) and all(
        isinstance(rule, dict) and all(isinstance(rule.get(key), str) for key in ("role", "prompt"))
        for rule in rules.values()
    )
    if not form or not rules:
        raise DataError(f'{path}: expected {{"category": {{"role": "Assistant", "prompt": "..."}}}}')
    return rules


def marks_of(reply: str) -> tuple[float, float] | None:
    """The two marks in the first line of a reply; None where there are not two numbers from 0 to 10."""
    words = reply.strip().split("\n")[0].replace(",", " ").split()
    try:
        marks = [float(word) for word in words]
    except ValueError:
        return None
    return (marks[0], marks[1]) if len(marks) == 2 and all(LEAST <= mark <= MOST for mark in marks) else None


@dataclass(frozen=True)
class RelativeScore:
    """100 times the mean mark of the answers by that of the references, with a bootstrap interval over questions.

    Attributes:
        overall, categories: of all, and by category; None where no reply could be read, or all references have 0.
        unreadable: questions whose reply could not be read, with it; they are in no mean.
        marks: question -> (reference's, answer's). replies: question -> what the judge wrote.
        n: questions asked.
    """

    overall: Interval | None
    categories: dict[str, Interval | None]
    unreadable: dict[str, str]
    marks: dict[str, tuple[float, float]]
    replies: dict[str, list[str]]
    n: int


def relative_score(
    questions: Sequence[Question],
    judge: Writer,
    rules: Mapping[str, Mapping[str, str]] | None = None,
    options: JudgeOptions | None = None,
    *,
    progress: Report | None = None,
    **given: Any,
) -> RelativeScore:
    """Have a judge compare answers with references, as LLaVA's evaluation does with GPT-4.

    Args:
        rules: by category, see `read_rules`; a category is looked up as it is, then as llava_bench_<category>, then as
            default; None takes `RULE` for all.
        options: `swap` and `workers` of `JudgeOptions` may also be given one by one.
    Raises:
        DataError: a category has no rule. UserError: the judge does not answer.
    """
    options = JudgeOptions.of(options, given, "relative_score")
    rules = rules or {"default": RULE}
    prompts = [_prompts(question, rules, options.swap) for question in questions]

    def ask(pair: tuple[str, ...]) -> list[str]:
        return [judge.write([("system", SYSTEM), ("user", prompt)]).text for prompt in pair]

    marks: dict[str, tuple[float, float]] = {}
    unreadable: dict[str, str] = {}
    replies: dict[str, list[str]] = {}
    for done, (question, texts) in enumerate(zip(questions, in_order(ask, prompts, options.workers), strict=True), 1):
        found = [marks_of(text) for text in texts]
        replies[question.id] = texts
        if any(pair is None for pair in found):
            unreadable[question.id] = next(text for text, pair in zip(texts, found, strict=True) if pair is None)
        else:
            turned = [pair[:: -1 if i else 1] for i, pair in enumerate(found) if pair is not None]
            marks[question.id] = (sum(p[0] for p in turned) / len(turned), sum(p[1] for p in turned) / len(turned))
        if progress is not None:
            progress(done, len(questions))
    kinds = sorted({question.category for question in questions})
    groups = {kind: [marks[q.id] for q in questions if q.category == kind and q.id in marks] for kind in kinds}
    categories = {kind: _relative(group) for kind, group in groups.items()}
    return RelativeScore(_relative(list(marks.values())), categories, unreadable, marks, replies, len(questions))


@dataclass(frozen=True)
class Decisions:
    """ScienceQA with two models, where a judge decides what they disagree on.

    Attributes:
        indices: problem -> final index; None where the judge's reply could not be read.
        disagreed: problems that the judge was asked about. unreadable: of these those without a readable reply.
        replies: problem -> what the judge wrote.
        first, second, judged: (right, n) of the first model, the second, and together; `judged` leaves the unreadable
            ones out. kept: together, the first model's answer kept where a reply is unreadable, as LLaVA counts.
        columns: of `judged`, see `nine_columns`.
    """

    indices: dict[str, int | None]
    disagreed: list[str]
    unreadable: list[str]
    replies: dict[str, str]
    first: tuple[int, int]
    second: tuple[int, int]
    judged: tuple[int, int]
    kept: tuple[int, int]
    columns: dict[str, tuple[int, int]]

    @property
    def accuracy(self) -> Interval:
        """Of `judged`, with Wilson's interval."""
        right, n = self.judged
        return Interval(right / max(n, 1), *wilson(right, n))


def decide(
    first: Answers,
    second: Answers,
    problems: Mapping[str, Mapping[str, Any]],
    judge: Writer,
    *,
    part: str | None = "test",
    workers: int = 1,
    progress: Report | None = None,
) -> Decisions:
    """LLaVA's scheme of two models on ScienceQA: where they agree that is the answer, else a judge sees both.

    An answer that names no choice counts as a disagreement; only problems with both answers are looked at.

    Raises:
        DataError: no problem has both answers. UserError: the judge does not answer.
    """
    meant = {pid: dict(row) for pid, row in problems.items() if part is None or row.get("split", part) == part}
    both = [pid for pid in meant if pid in first.texts and pid in second.texts]
    if not both:
        raise DataError(f"of {len(meant):,} problems none has an answer of both models; name those that they belong to")
    sizes = {pid: len(meant[pid]["choices"]) for pid in both}
    a, b = ({pid: answer_index(one.texts[pid], sizes[pid]) for pid in both} for one in (first, second))
    disagreed = [pid for pid in both if a[pid] != b[pid] or a[pid] < 0]

    def ask(pid: str) -> str:
        text = (
            f"Question: {question_text(meant[pid])}\n\nTwo answers were given.\n\n[Answer 1]\n{first.texts[pid]}\n\n"
            f"[Answer 2]\n{second.texts[pid]}\n\nWeigh both and decide which option is right. End with the sentence "
            '"The answer is X." with the letter of the option for X, and write that sentence once.'
        )
        return judge.write([("system", SYSTEM), ("user", text)]).text

    replies: dict[str, str] = {}
    for done, (pid, reply) in enumerate(zip(disagreed, in_order(ask, disagreed, workers), strict=True), 1):
        replies[pid] = reply
        if progress is not None:
            progress(done, len(disagreed))
    final: dict[str, int | None] = dict(a)
    for pid, reply in replies.items():
        index = answer_index(reply.strip(), sizes[pid])
        final[pid] = index if index >= 0 else None
    right = {pid: index == meant[pid]["answer"] for pid, index in final.items() if index is not None}
    kept = sum((a[pid] if index is None else index) == meant[pid]["answer"] for pid, index in final.items())
    return Decisions(
        indices=final,
        disagreed=disagreed,
        unreadable=[pid for pid, index in final.items() if index is None],
        replies=replies,
        first=(sum(a[pid] == meant[pid]["answer"] for pid in both), len(both)),
        second=(sum(b[pid] == meant[pid]["answer"] for pid in both), len(both)),
        judged=(sum(right.values()), len(right)),
        kept=(kept, len(both)),
        columns=nine_columns(meant, right),
    )


def _context(row: Mapping[str, Any]) -> str:
    """Captions, and boxes below them."""
    captions = row.get("captions", row.get("caption", []))
    lines = [captions] if isinstance(captions, str) else [str(caption) for caption in captions]
    boxes = [
        f"{box.get('category')}: [{', '.join(f'{value:g}' for value in box.get('bbox', []))}]"
        for box in row.get("instances", row.get("boxes", []))
        if isinstance(box, dict)
    ]
    return "\n".join(lines) + ("\n\n" + "\n".join(boxes) if boxes else "")


def _prompts(question: Question, rules: Mapping[str, Mapping[str, str]], swap: bool) -> tuple[str, ...]:
    names = (question.category, f"llava_bench_{question.category}", "default")
    rule = next((rules[name] for name in names if name in rules), None)
    if rule is None:
        raise DataError(f"no rule for the category {question.category}; there are {some(rules, 8)}")
    role, context = rule["role"], f"[Context]\n{question.context}\n\n" if question.context else ""
    made = []
    for one, two in ((question.reference, question.answer), (question.answer, question.reference))[: 1 + swap]:
        answers = "".join(f"[{role} {n}]\n{text}\n\n[End of {role} {n}]\n\n" for n, text in enumerate((one, two), 1))
        made.append(f"{context}[Question]\n{question.text}\n\n{answers}[System]\n{rule['prompt']}\n\n")
    return tuple(made)


def _relative(marks: Sequence[tuple[float, float]]) -> Interval | None:
    reference = [pair[0] for pair in marks]
    if not reference or not sum(reference):
        return None
    if min(reference) <= 0:  # a resample of zeros alone has no ratio
        return Interval(100 * sum(p[1] for p in marks) / sum(reference), float("nan"), float("nan"))
    found = score_interval(statistics_of([pair[1] for pair in marks], reference))
    return Interval(*(100 * value for value in found))
