"""`ssmlab`: the commands, and what becomes of errors."""

import os
import sys

import typer

import ssmlab
from ssmlab.cli import classify, data, demo, doctor, models, recipes, report, run, sweep
from ssmlab.errors import UserError

app = typer.Typer(
    name="ssmlab",
    help="State space models made usable: train, compare, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("sweep")(sweep.sweep)
app.command("classify")(classify.classify)
app.add_typer(data.app, name="data")
app.command("report")(report.report)
app.command("models")(models.models)
app.command("recipes")(recipes.recipes)
app.command("doctor")(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ssmlab {ssmlab.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run a command. A user's mistake is one line and exit code 2; SSMLAB_DEBUG=1 shows where it was found."""
    try:
        app(arguments)
    except UserError as error:
        if os.environ.get("SSMLAB_DEBUG"):
            raise
        typer.echo(f"ssmlab: {error}", err=True)
        sys.exit(error.exit_code)
