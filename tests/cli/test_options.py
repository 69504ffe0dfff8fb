"""Options of a command are the fields of its library function's dataclass."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from ssmlab.cli.options import help_texts, takes
from ssmlab.core.errors import UserError
from ssmlab.core.options import Count, Option
from ssmlab.studies.study import StudyOptions


@dataclass(frozen=True, kw_only=True)
class Few(StudyOptions):
    """Every kind of option once."""

    study = "few"
    result = "test that is there"
    what = "a test"

    count: Count = 3
    """How many
    there are."""
    names: Annotated[tuple[str, ...], Option(flag="--name")] = ()
    """Several times for several."""
    ratio: Annotated[float, Option(read=lambda text: float(text.rstrip("%")) / 100, text="50%")] = 0.5
    """A share."""
    train: bool = True
    """Train too."""
    inner: Annotated[int, Option(command=False)] = 7
    """Of the library alone."""


@pytest.fixture
def call():
    app, seen = typer.Typer(), []

    @app.command()
    @takes(Few)
    def command(model: Annotated[str, typer.Argument()], options: Few) -> None:
        """Do it."""
        seen.append((model, options))

    def run(*arguments):
        result = CliRunner().invoke(app, ["m", *arguments], env={"COLUMNS": "120"})
        return result, seen[-1][1] if seen else None

    return run


def test_defaults_are_those_of_the_class(call):
    assert call()[1] == Few()


def test_every_kind_of_option_is_read(call):
    _, options = call("--count", "5", "--name", "a", "--name", "b", "--ratio", "20%", "--no-train", "--overwrite")
    assert options == Few(count=5, names=("a", "b"), ratio=0.2, train=False, overwrite=True)


def test_the_help_is_the_text_below_the_field(call):
    shown = call("--help")[0].output
    for text in ("How many there are.", "[default: 3]", "--name ", "[default: 50%]", "--no-train", "x>=0", "Do it."):
        assert text in shown, text
    assert "--inner" not in shown and "--names" not in shown
    texts = help_texts(Few)
    assert texts["output"] == "The folder; runs/few-<models> if not given."
    assert texts["overwrite"] == "Replace the test that is there."


def test_numbers_and_devices_are_checked(call):
    assert call("--count", "-1")[0].exit_code == 2
    with pytest.raises(UserError, match="--device must be auto, cuda, mps or cpu, got 'tpu'"):
        Few(device="tpu")
    assert isinstance(call("--device", "tpu")[0].exception, UserError)


def test_no_command_loads_numpy_before_it_runs():
    code = (
        "import sys, ssmlab.cli.main; print([m for m in ('torch', 'numpy', 'scipy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
