"""Options of a command are the fields of its library function's dataclass."""

import copy
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

import ssmlab
from ssmlab import adapt
from ssmlab.adapt.options import CheckOptions as AdapterOptions
from ssmlab.adapt.options import MethodsOptions
from ssmlab.cli.main import app
from ssmlab.cli.options import help_texts, parameters, takes
from ssmlab.core.errors import UserError
from ssmlab.core.options import Count, Option
from ssmlab.data import check_data
from ssmlab.data.options import DataOptions
from ssmlab.experiments.options import DemoOptions, RunOptions, SweepOptions
from ssmlab.generation.sampling import GenerateOptions
from ssmlab.models import create_model
from ssmlab.models.segmentation.plans import read_plan
from ssmlab.profiling.bench.options import BenchOptions
from ssmlab.studies.card import model_card
from ssmlab.studies.compare import Options as CompareOptions
from ssmlab.studies.options import ModelsOptions
from ssmlab.studies.study import StudyOptions
from ssmlab.tasks.language.options import ConvertOptions, WritingOptions
from ssmlab.tasks.options import ClassifyOptions, EvaluateOptions
from ssmlab.tasks.segment.options import PlanOptions, SegmentOptions
from ssmlab.tasks.segment.proposing import propose
from ssmlab.tasks.translate.options import TranslateFileOptions
from ssmlab.tasks.vision_language.writer_options import InstructionOptions, JudgeOptions, WriterOptions


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


COMMANDS = {
    "evaluate": EvaluateOptions, "classify": ClassifyOptions, "segment": SegmentOptions, "generate": WritingOptions,
    "convert": ConvertOptions, "run": RunOptions, "sweep": SweepOptions, "demo": DemoOptions, "compare": CompareOptions,
    "translate": TranslateFileOptions, "adapt methods": MethodsOptions, "adapt check": AdapterOptions,
    "bench ops": BenchOptions, "plan": PlanOptions, "models": ModelsOptions, "data check": DataOptions,
    "vlm make-instructions": InstructionOptions, "vlm score relative": JudgeOptions,
    "vlm score scienceqa": WriterOptions,
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_options_of_its_function_with_their_help(name):
    command, texts = get_command(app), help_texts(COMMANDS[name])
    for word in name.split():
        command = command.commands[word]
    shown = {one.name: getattr(one, "help", None) for one in command.params}
    own = {one.name: texts.get(one.name) for one in parameters(COMMANDS[name])}
    assert len(own) > 1 and own.items() <= shown.items()


def test_options_are_given_as_one_or_one_by_one():
    few = GenerateOptions(max_tokens=3)
    assert GenerateOptions.of(few, {"beams": 2}, "generate") == GenerateOptions(max_tokens=3, beams=2)
    assert GenerateOptions.of(None, {}, "generate") == GenerateOptions()
    with pytest.raises(UserError, match="generate has no option 'temprature'; did you mean temperature"):
        GenerateOptions.of(None, {"temprature": 1.0}, "generate")
    assert GenerateOptions(beams=2, stop=["x"], max_tokens=3).changed("max_tokens") == {"beams": 2, "stop": ["x"]}
    with pytest.raises(UserError, match="give one of them"):
        RunOptions(resume=True, overwrite=True)
    assert RunOptions(device="cpu", data="x").changes() == ["device=cpu", "data.path=x"]


def test_functions_read_the_options_that_commands_give():
    model = create_model("mamba_lm_test", vocab_size=257).eval()
    (one,) = ssmlab.generate(model, [[1, 2]], options=GenerateOptions(max_tokens=3))
    assert one == ssmlab.generate(model, [[1, 2]], max_tokens=3)[0] and len(one.tokens) == 3
    with pytest.raises(UserError, match="--documents must be file or line, got word"):
        ssmlab.evaluate(model, "a text", "language", documents="word")
    texts = ["one text of some letters", "and another one"]
    by_one = ssmlab.evaluate(model, texts, "language", length=8, stride=4, progress=False)
    assert by_one == ssmlab.evaluate(model, texts, "language", EvaluateOptions(length=8, stride=4), progress=False)


def test_what_commands_do_is_there_from_python(tmp_path):
    model = create_model("mamba_lm_test", vocab_size=257)
    counts = {name: trained for name, trained, _ in adapt.count_methods(model, rank=2)}
    assert counts["projections"] == adapt.apply(copy.deepcopy(model), rank=2).trainable and counts["vocabulary"] > 0
    assert adapt.try_method(adapt.open_network("vim_test", classes=3), method="head").trainable > 0
    found = propose("shapes", features=4, memory=2, out=tmp_path / "plan.toml")
    assert read_plan(tmp_path / "plan.toml") == found.plan and found.plan.features[0] == 4 and found.classes == 2
    assert [bool(model_card("mamba_lm_test", depth=n).parts[0].parts) for n in (1, 2)] == [False, True]
    (tmp_path / "a.txt").write_text("one text. " * 40)
    (tmp_path / "b.txt").write_text("another one. " * 40)
    report = check_data(str(tmp_path), task="language", seed=1)
    assert report.ok and report.counts == {"train": 2, "val": 2, "test": 2} and report.to_dict()["task"] == "language"
    with pytest.raises(UserError, match="check_data has no option 'sed'; did you mean seed"):
        check_data("digits", sed=1)
