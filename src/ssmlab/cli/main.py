"""`ssmlab`: the commands, and what becomes of errors."""

import io
import os
import sys
import threading
from functools import partial
from typing import Any, cast

import typer

import ssmlab
from ssmlab.cli import (
    adapt,
    bench,
    classify,
    compare,
    compress,
    convert,
    data,
    demo,
    doctor,
    ensemble,
    evaluate,
    execute,
    explain,
    generate,
    models,
    plan,
    recipes,
    report,
    robustness,
    run,
    segment,
    sweep,
    translate,
    vlm,
)
from ssmlab.core.errors import UserError, exit_code_of, explain_system, interrupted_by, watch_signals

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
app.command("evaluate")(evaluate.evaluate)
app.command("classify")(classify.classify)
app.command("segment")(segment.segment)
app.command("ensemble")(ensemble.ensemble)
app.command("plan")(plan.plan)
app.command("generate")(generate.generate)
app.command("translate")(translate.translate)
app.command("convert")(convert.convert)
app.add_typer(data.app, name="data")
app.command("report")(report.report)
app.command("models")(models.models)
app.command("compare")(compare.compare)
app.command("compress")(compress.compress)
app.add_typer(adapt.app, name="adapt")
app.command("robustness")(robustness.robustness)
app.command("explain", cls=explain.TakesSeveral)(explain.explain)
app.command("recipes")(recipes.recipes)
app.command("doctor")(doctor.doctor)
app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(
    execute.execute
)
app.add_typer(bench.app, name="bench")
app.add_typer(vlm.app, name="vlm")


# What others call our commands
SYNONYMS = {
    "train": "run",
    "fit": "run",
    "predict": "classify",
    "test": "evaluate",
    "eval": "evaluate",
    "check": "data",
    "infer": "classify",
}
USAGE = cast(type[Exception], typer.BadParameter.__mro__[1])  # UsageError, which typer has under a private name


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ssmlab {ssmlab.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run a command. A user's mistake is one line and exit code 2; SSMLAB_DEBUG=1 shows where it was found."""
    # Threads that wait for others give up their core sooner; must come before torch loads libgomp. With the default of
    # 300,000 turns, two threads on two cores that other programs use as well took 1.0 to 1.7 s for a ResNet-18 training
    # step, with 10,000 turns 0.4 s; on idle cores both took 0.19 s.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if os.environ.get("WORLD_SIZE", "1") != "1":  # torch's notes to whoever wrote the program, from every process
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # with LANG=C: what the terminal has no sign for is a question mark
            stream.reconfigure(errors="replace")
    watch_signals()
    before, threading.excepthook = threading.excepthook, partial(_thread_failed, threading.excepthook)
    try:
        code = app(arguments, prog_name="ssmlab", standalone_mode=False)
    except USAGE as error:
        _explain_usage(error)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__, EOFError):  # which typer takes for Ctrl-D, wherever it comes from
            raise error.__cause__ from None
        typer.echo("ssmlab: interrupted", err=True)
        sys.exit(exit_code_of(error if isinstance(error, KeyboardInterrupt) else error.__cause__))
    except Exception as error:
        if os.environ.get("SSMLAB_DEBUG"):
            raise
        if interrupted_by():  # which some library made this error of
            typer.echo("ssmlab: interrupted", err=True)
            sys.exit(exit_code_of(error))
        explained = (str(error), error.exit_code) if isinstance(error, UserError) else explain_system(error)
        if explained is None:
            raise
        typer.echo(f"ssmlab: {explained[0]}", err=True)
        sys.exit(explained[1])
    finally:
        threading.excepthook = before
    sys.exit(code if isinstance(code, int) else 0)


def _thread_failed(before: Any, failed: threading.ExceptHookArgs) -> None:
    """A full disk and the like are told once: TensorBoard's thread hands its error to the next call of the writer."""
    if failed.exc_value is None or explain_system(failed.exc_value) is None or os.environ.get("SSMLAB_DEBUG"):
        before(failed)


def _explain_usage(error: Exception) -> None:
    """One line about a misspelt option or command; the help where nothing was given."""
    context: Any = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help())
        return
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    known = getattr(getattr(context, "command", None), "commands", None)
    wanted = message.partition("'")[2].partition("'")[0].casefold()
    if known and "No such command" in message and SYNONYMS.get(wanted) in known:
        message += f"; did you mean {SYNONYMS[wanted]}?"
    elif known and "No such command" in message and "Did you mean" not in message:
        message += f"; there are {', '.join(known)}"
    where = context.command_path if context is not None else "ssmlab"
    typer.echo(f"ssmlab: {message}; see `{where} --help`", err=True)
