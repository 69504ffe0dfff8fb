"""`ssmlab vlm score`: answers compared with what is right."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssmlab.cli.options import takes
from ssmlab.tasks.vision_language.writer_options import JudgeOptions, WriterOptions

Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write everything to a JSON file.")]
Answers = Annotated[Path, typer.Argument(metavar="ANSWERS", help="Lines of JSON with question_id and text.")]
Judge = Annotated[
    str, typer.Option("--judge", metavar="PLACE", help="The address of a language model, or the folder of one.")
]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def main() -> None:
    """Score answers: ScienceQA, VQA, POPE, captions, or by a judge."""


@app.command()
@takes(WriterOptions)
def scienceqa(
    answers: Annotated[
        Path, typer.Argument(metavar="ANSWERS", help="LLaVA's result file (outputs, results), or lines of JSON.")
    ],
    *,
    problems: Annotated[Path | None, typer.Option("--problems", help="problems.json, or a part of it.")] = None,
    part: Annotated[str, typer.Option("--part", help="Problems that count: train, val, test or all.")] = "test",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File of the indices; <ANSWERS>.scored.json here if not given.")
    ] = None,
    second: Annotated[Path | None, typer.Option("--second", help="Answers of a second model.")] = None,
    judge: Judge = "",
    options: WriterOptions,
) -> None:
    """ScienceQA by LLaVA's rule: the index of every answer, and with --problems accuracy and the nine columns.

    With --second and --judge a language model decides where two models disagree, as in LLaVA's paper.
    """
    from ssmlab.core.errors import UserError
    from ssmlab.core.files import write_json
    from ssmlab.data.conversations.scienceqa import PARTS
    from ssmlab.tasks.vision_language import scienceqa as rule

    if part not in (*PARTS, "all"):
        raise UserError(f"--part must be {', '.join(PARTS)} or all, got {part!r}")
    if (second is None) != (not judge) or (second and problems is None):
        raise UserError("--second and --judge belong together, and need --problems")
    given = rule.read_answers(answers)
    known = None if problems is None else rule.read_problems(problems)
    counted = None if part == "all" else part
    score = rule.score_scienceqa(given, known, counted)
    result = score.to_dict()
    named = len(score.indices) - len(score.failed)
    typer.echo(f"{len(score.indices):,} answers: {named:,} name a choice, {len(score.failed):,} do not")
    if given.indices:
        equal = len(given.indices) - len(score.contradictions)
        typer.echo(f"stored indices: {equal:,} of {len(given.indices):,} are what the text says")
        for pid, (stored, read) in score.contradictions.items():
            typer.echo(f"  problem {pid}: stored {stored}, its text says {read}")
    if score.stored:
        typer.echo("as stored: " + ", ".join(f"{name} {value}" for name, value in score.stored.items()))
    if known is not None:
        typer.echo(f"problems given: {score.columns['Avg'][1]:,}, of them without an answer {len(score.missing):,}")
        _columns(score.columns)
    if second is not None and known is not None:
        result["judged"] = _decide(given, rule.read_answers(second), known, counted, judge, options)
    place = out or Path(f"{answers.name.removesuffix('.json').removesuffix('.jsonl')}.scored.json")
    write_json(place, result)
    typer.echo(f"indices: {place}")


@app.command()
def vqa(
    answers: Answers,
    references: Annotated[Path, typer.Option("--references", "-r", help="Questions with answer or answers.")],
    out: Out = None,
) -> None:
    """VQA's exact match: one reference, or several people's answers (min(1, equal / 3), leaving one out)."""
    from ssmlab.data.contents import some
    from ssmlab.tasks.vision_language.answers import read_references, score_vqa, texts_by_id

    score = score_vqa(texts_by_id(answers), read_references(references))
    _table([("accuracy", score.accuracy, score.n)])
    if score.missing:
        typer.echo(f"{len(score.missing):,} questions have no answer and count as wrong: {some(score.missing)}")
    _write(out, {"accuracy": list(score.accuracy), "n": score.n, "missing": score.missing})


@app.command()
def pope(
    answers: Answers,
    references: Annotated[
        Path, typer.Option("--references", "-r", help="Lines with question_id and label, yes or no.")
    ],
    out: Out = None,
) -> None:
    """POPE: whether an object is there, yes or no; by category where the references have one."""
    from ssmlab.tasks.vision_language.answers import read_rows, score_pope_by_category, texts_by_id

    result = {}
    for name, score in score_pope_by_category(texts_by_id(answers), read_rows(references)).items():
        typer.echo(f"{name}: {score.n:,} questions, {score.yes:.1%} answered yes")
        _table([("accuracy", score.accuracy, score.n)])
        typer.echo(f"precision {score.precision:.1%}, recall {score.recall:.1%}, F1 {score.f1:.1%}")
        result[name] = dict(vars(score))
    _write(out, result)


@app.command()
def captions(
    answers: Annotated[Path, typer.Argument(metavar="ANSWERS", help="Lines of JSON with image (or id) and text.")],
    references: Annotated[
        Path, typer.Option("--references", "-r", help="Captions of the images: a table, a folder, or LLaVA's JSON.")
    ],
    corpus: Annotated[
        Path | None, typer.Option("--corpus", help="Captions to weigh words by, such as the training ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of shuffling and intervals.")] = 0,
    out: Out = None,
) -> None:
    """CIDEr-D and BLEU-4, next to what the same captions reach on other images."""
    from ssmlab.tasks.vision_language.answers import captions_of_answers, references_of
    from ssmlab.tasks.vision_language.caption_scores import score_captions

    known = references_of(references)
    words = None if corpus is None else list(references_of(corpus).captions.values())
    score = score_captions(captions_of_answers(answers, known), known.captions, words, seed=seed)
    rows = [
        ("CIDEr-D", score.cider, score.n),
        ("CIDEr-D, another image's", score.cider_shuffled, score.n),
        ("difference", score.cider_gain, score.n),
        ("BLEU-4", score.bleu, score.n),
        ("BLEU-4, another image's", score.bleu_shuffled, score.n),
        ("difference", score.bleu_gain, score.n),
    ]
    _table(rows, "{:.4f}")
    typer.echo(f"content words that a reference has: {score.hits:.1%}")
    if not score.above_shuffled:
        typer.echo("these captions are not surely better than those of other images: the model may not look at them")
    _write(out, dict(vars(score)))


@app.command()
@takes(JudgeOptions)
def relative(
    answers: Answers,
    *,
    questions: Annotated[Path, typer.Option("--questions", help="Lines with question_id, image, text, category.")],
    references: Annotated[Path, typer.Option("--references", "-r", help="Lines with question_id and text.")],
    judge: Judge,
    context: Annotated[Path | None, typer.Option("--context", help="Lines with image, captions, instances.")] = None,
    rules: Annotated[Path | None, typer.Option("--rules", help="Rules by category, as LLaVA's rule.json.")] = None,
    out: Out = None,
    options: JudgeOptions,
) -> None:
    """A judge's marks of answers by those of references, in percent, overall and by category.

    Replies that cannot be read are left out and counted.
    """
    from ssmlab.cli.display import showing
    from ssmlab.tasks.vision_language.judge import read_comparison, read_rules, relative_score
    from ssmlab.tasks.vision_language.writers import open_writer

    pairs = read_comparison(questions, references, answers, context)
    known = None if rules is None else read_rules(rules)
    opened = open_writer(judge, options)
    with showing("interrupted") as display:
        display.start("judging", len(pairs), unit="questions")
        score = relative_score(pairs, opened, known, options, progress=lambda done, total: display.update(done))
    counts = {kind: sum(q.category == kind and q.id in score.marks for q in pairs) for kind in score.categories}
    rows = [("overall", score.overall, len(score.marks))]
    rows += [(kind, found, counts[kind]) for kind, found in score.categories.items()]
    _table(rows, "{:.1f}")
    typer.echo(f"{score.n:,} questions, {len(score.unreadable):,} without a readable reply, which are left out")
    for id, text in score.unreadable.items():
        typer.echo(f"  question {id}: {' '.join(text.split())[:80]!r}")
    _write(out, dict(vars(score)))


def _decide(
    first: Any, second: Any, problems: Any, part: str | None, judge: str, options: WriterOptions
) -> dict[str, Any]:
    """Ask the judge, print and return what came of it."""
    from ssmlab.cli.display import showing
    from ssmlab.tasks.vision_language.judge import decide
    from ssmlab.tasks.vision_language.writers import open_writer

    opened = open_writer(judge, options)
    with showing("interrupted") as display:
        found = decide(first, second, problems, opened, part=part, workers=options.workers)
    display.say(
        f"judge: asked about {len(found.disagreed):,} disagreements, {len(found.unreadable):,} replies unreadable"
    )
    for name, (right, n) in (("first", found.first), ("second", found.second), ("judged", found.judged)):
        typer.echo(f"  {name:7} {right / max(n, 1):.2%} ({right:,} of {n:,})")
    right, n = found.kept
    typer.echo(f"  with the first model's answer where unreadable {right / n:.2%} ({right:,} of {n:,})")
    for pid in found.unreadable:
        typer.echo(f"  unreadable, left out: problem {pid}: {' '.join(found.replies[pid].split())[:80]!r}")
    _columns(found.columns)
    return dict(vars(found))


def _columns(columns: dict[str, tuple[int, int]]) -> None:
    """ScienceQA's columns as a table."""
    from ssmlab.tasks.vision_language.scienceqa import interval_of

    _table([(name, interval_of(*counts), counts[1]) for name, counts in columns.items()], "{:.2%}")


def _table(rows: list[tuple[str, Any, int]], form: str = "{:.2%}") -> None:
    """Names, values with intervals, and n."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "value", "95 % interval", "n", box=None, pad_edge=False)
    for name, found, n in rows:
        value, low, high = ("none", "", "") if found is None else (form.format(number) for number in found)
        table.add_row(name, value, f"{low} to {high}" if low else "", f"{n:,}")
    Console(highlight=False, width=None if Console().is_terminal else 120).print(table)


def _write(out: Path | None, result: dict[str, Any]) -> None:
    from ssmlab.core.files import write_json

    if out is not None:
        write_json(out, result)
        typer.echo(f"written: {out}")
