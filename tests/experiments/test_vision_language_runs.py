"""Runs of vision-language models: stages, killed and continued, the report's first question, and the commands."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from ssmlab.cli.main import app
from ssmlab.core.progress import Progress
from ssmlab.core.record import read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.tasks.recipe import list_recipes, load_recipe
from ssmlab.tasks.vision_language.use import open_model

pytestmark = pytest.mark.slow
RECIPE = "vision_language/llava_mamba"
STAGES = (
    "training.stages=[{name='align',train={projector=1e-2},template='plain'},"
    "{name='tune',train={projector=1e-3,language=1e-3},lora='projections',training={epochs=2}}]"
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """The user's cache, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    return run_recipe(load_recipe(RECIPE, [STAGES], smoke=True), output=tmp_path_factory.mktemp("runs"))


def pictures_of():
    return sorted((Path(os.environ["XDG_CACHE_HOME"]) / "ssmlab" / "scenes").glob("*.png"))


def test_a_run_says_whether_its_model_looks(run):
    records = read_records(run / "records.jsonl")
    test = {(r.metric, r.class_) for r in records if r.split == "test" and r.step is None}
    assert {("loss", None), ("loss", "another image"), ("loss", "grey image")} <= test
    assert ("own_image_likelier", "another image") in test and ("recall_at_1", "image of a text") not in test
    steps = [r.step for r in records if r.metric == "loss" and r.split == "val" and r.step is not None]
    assert steps == sorted(steps) and len(steps) == 3  # an epoch of the first stage, two of the second
    page = (run / "report.html").read_text("utf-8")
    assert "A long conversation" in page and (run / "plots" / "turns.svg").is_file()
    assert "Does it look?" in page and ("It looks" in page or "It does not look" in page)
    lines = (run / "models" / "llava_mamba" / "answers.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 4 and {"question_id", "text", "reference", "grey"} <= json.loads(lines[0]).keys()


class InterruptAt(Progress):
    def __init__(self, title, step):
        self.wanted, self.step = title, step

    def start(self, title, *_, **__):
        self.title = title

    def update(self, done, note=""):
        if self.title == self.wanted and done == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("stage", "step"), [("align", 2), ("tune", 3)])
def test_interrupted_and_resumed_is_bit_equal(run, tmp_path, stage, step):
    recipe = load_recipe(RECIPE, [STAGES], smoke=True)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, output=tmp_path, progress=InterruptAt(f"llava_mamba, {stage}", step))
    folder = run_recipe(load_recipe(RECIPE, [STAGES], smoke=True), output=tmp_path, resume=True)
    whole, cut = (load_file(one / "models" / "llava_mamba" / "model.safetensors") for one in (run, folder))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize("name", [n for n, _ in list_recipes() if n.startswith("vision_language/") and n != RECIPE])
def test_every_recipe_has_a_tiny_form(name, tmp_path):
    folder = run_recipe(load_recipe(name, smoke=True), output=tmp_path)
    assert json.loads((folder / "run.json").read_text("utf-8"))["finished"]


def vlm(*arguments):
    found = CliRunner().invoke(app, ["vlm", *map(str, arguments)])
    return found.exit_code, found.stdout, found.stderr if found.exception is None else str(found.exception)


def test_chat_and_its_saved_state(run, tmp_path):
    image = pictures_of()[0]
    state = tmp_path / "state.safetensors"
    how = ("--max-tokens", 6, "--device", "cpu")
    code, first, notes = vlm("chat", run, "-i", image, "-q", "Which colour is it?", "--save-state", state, *how)
    assert code == 0 and "1 image read" in notes and state.is_file()
    code, again, notes = vlm("chat", run, "--load-state", state, "-q", "Which colour is it?", *how)
    assert code == 0 and again == first and "from the file" in notes
    code, _, message = vlm("chat", run, "--load-state", state, "-i", pictures_of()[1], "-q", "What?", *how)
    assert code != 0 and "another image" in message
    code, _, message = vlm("chat", run, "-i", tmp_path / "none.png", "-q", "What?")
    assert code != 0 and "there is no file" in message


def test_answers_of_a_file_in_batches_are_those_of_one_by_one(run, tmp_path):
    images = pictures_of()[:5]
    lines = [
        {"question_id": i, "image": image.name, "text": "Which colour is it?" * (i + 1)}
        for i, image in enumerate(images)
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = [
        vlm("answer", run, file, "--images", images[0].parent, "--batch-size", size, "--max-tokens", 5)[1]
        for size in (1, 4)
    ]
    assert found[0] == found[1] and len(found[0].splitlines()) == 5
    assert json.loads(found[0].splitlines()[0])["question_id"] == 0
    file.write_text(
        file.read_text() + '{"question_id": 9, "image": "none.png", "text": "What?"}\n{"question_id": 10}\n'
    )
    code, _, message = vlm("answer", run, file, "--images", images[0].parent)
    assert code != 0 and "none.png" in message and "record 6" in message


def test_prune_prints_every_row(run, tmp_path):
    scenes = pictures_of()[0].parent
    code, table, message = vlm("prune", run, scenes / "scenes.json", "--images", scenes, "--records", 3,
                               "--max-tokens", 3, "--keep", 0.25, "--out", tmp_path / "t.json")  # fmt: skip
    assert code == 0, message
    assert all(name in table for name in ("random 25%", "pool 25%", "tome 25%", "visionzip 25%", "all"))
    assert len(json.loads((tmp_path / "t.json").read_text())) == 5


def test_a_run_is_a_model_from_python(run):
    model = open_model(run, device="cpu")
    read = model.read_image(pictures_of()[0])
    assert (
        read.ask("Which colour is it?", max_tokens=3).tokens
        == model.ask(pictures_of()[0], "Which colour is it?", max_tokens=3).tokens
    )
