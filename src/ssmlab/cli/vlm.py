"""`ssmlab vlm`: language models that see images; their data and scores."""

from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli import vlm_score, vlm_use
from ssmlab.cli.options import takes
from ssmlab.tasks.vision_language.writer_options import InstructionOptions

app = typer.Typer(no_args_is_help=True)
app.add_typer(vlm_score.app, name="score")
app.command("chat")(vlm_use.chat)
app.command("answer")(vlm_use.answer)
app.command("prune")(vlm_use.prune)


@app.callback()
def main() -> None:
    """Language models that see images: instruction data, questions, scores."""


@app.command("make-instructions")
@takes(InstructionOptions)
def make_instructions(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SCENES",
            help='Lines of {"id", "image", "captions", "instances": [{"category", "bbox"}]}, NLVR\'s lines, or a table '
            "or folder of captions.",
        ),
    ],
    *,
    writer: Annotated[
        str,
        typer.Option(
            "--writer",
            metavar="PLACE",
            help="Who writes: an address that speaks OpenAI's protocol, such as http://127.0.0.1:8000/v1, or the "
            "folder of a language model, ours or transformers'.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .jsonl file of records; one that is there goes on.")],
    options: InstructionOptions,
) -> None:
    """Turn captions and boxes into conversations, descriptions and reasoning about images, as LLaVA's were made.

    Replies that break a rule are kept with the reason in a file next to it. Interrupted, the same command goes on.
    """
    from ssmlab.cli.display import showing
    from ssmlab.core.formats import plural
    from ssmlab.tasks.vision_language.instructions import REFUSED, make_instructions
    from ssmlab.tasks.vision_language.scenes import read_scenes
    from ssmlab.tasks.vision_language.writers import open_writer

    scenes, opened = read_scenes(source), open_writer(writer, options)
    with showing("interrupted; the same command goes on") as display:
        display.start("writing", len(scenes) * len(options.kinds), unit="replies")
        made = make_instructions(scenes, opened, out, options, progress=lambda done, total: display.update(done))
    typer.echo(f"{plural(made.records, 'record')} in {out}; {made.refused:,} refused, in {out.with_suffix(REFUSED)}")
    for reason, n in sorted(made.reasons.items(), key=lambda one: (-one[1], one[0])):
        typer.echo(f"  {n:,}  {reason}")


@app.command("make-questions")
def make_questions(
    source: Annotated[Path, typer.Argument(metavar="NLVR", help="NLVR's JSON lines, or their folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for train.json and test.json.")],
    images: Annotated[
        Path | None, typer.Option("--images", help="The folder of the images; next to it if not given.")
    ] = None,
    test_share: Annotated[float, typer.Option(min=0, max=1, help="Of the groups of one sentence.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Of the choice of questions.")] = 0,
) -> None:
    """Questions with answers by rule about NLVR's pictures: how many, which colour, is there; answers come evenly."""
    from ssmlab.core.files import write_json
    from ssmlab.data.conversations import find_conversations
    from ssmlab.data.conversations.nlvr_questions import PARTS, as_records, rule_questions
    from ssmlab.data.conversations.reader import usable

    found = find_conversations(source.absolute(), images and images.absolute(), kind="nlvr")
    for part in PARTS:
        made = rule_questions(usable(source, found), part, test_share=test_share, seed=seed)
        write_json(out / f"{part}.json", as_records(made.conversations, found.images))
        typer.echo(f"{part}: {len(made.conversations):,} questions in {out / f'{part}.json'}")
        for kind, (n, share) in made.majority.items():
            typer.echo(f"  {kind:13} {n:5,}  most frequent answer {share:.1%}")
    typer.echo(f"images: {found.images}")
