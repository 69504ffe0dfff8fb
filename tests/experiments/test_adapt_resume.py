"""Adapted trainings that were cut and go on: bit-equal to those that were not, with freezing and with remedies."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from ssmlab.core.progress import Progress
from ssmlab.experiments.run import run_recipe
from ssmlab.tasks.recipe import load_recipe

CUT = 3  # of four steps
SMALL = ["training.epochs=2", "training.batch_size=8", "data.limit=16", "evaluation.throughput_repeats=1", "name=small"]
FROZEN = "freeze_by_gradient={steps=1, threshold=1e9}"
LANGUAGE = {
    "lora": "adapt='all'",
    "freezing": f"adapt='projections', training={{{FROZEN}}}",
    "rehearsal": "adapt='x_half', remedy={method='rehearsal'}",
    "reward": "adapt='projections', remedy={method='distillation+reward', tokens=4, rows=2}",
}
VISION = {"freezing": f"adapt='all', training={{{FROZEN}}}", "ewc": "remedy={method='ewc', examples=8}",
          "osf": "remedy={method='osf'}"}  # fmt: skip


class InterruptAt(Progress):
    def start(self, title, *_, **__):
        self.title = title

    def update(self, done, note=""):
        if self.title == "second" and done == CUT:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes longer than training here; the report has tests of its own."""
    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Finished runs to start from."""
    folder = tmp_path_factory.mktemp("bases")
    text = folder / "text.txt"
    text.write_text("To be, or not to be, that is the question. " * 90)
    small = ["data.limit=16", "evaluation.throughput_repeats=1", "training.batch_size=8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssmlab.reports.html.write_report", lambda folder, _: None)
        return {
            name: run_recipe(load_recipe(f"adapt/base_{name}", [*small, *more], smoke=True), output=folder)
            for name, more in (("language", [f"data.path={text}", "data.length=32"]), ("vision", []))
        }


QUICK = ("language-lora",)
CASES = [
    pytest.param(kind, how, marks=() if f"{kind}-{how}" in QUICK else pytest.mark.slow)
    for kind, settings in (("language", LANGUAGE), ("vision", VISION))
    for how in settings
]


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_interrupted_and_resumed_is_bit_equal(kind, how, bases, tmp_path, no_report):
    name, settings = ("mamba_lm_test", LANGUAGE) if kind == "language" else ("vmamba_test", VISION)
    # the one before it is finished when the run goes on: nothing of it may matter
    models = (
        f"models=[{{name='{name}', label='first', adapt='head'}}, {{name='{name}', label='second', {settings[how]}}}]"
    )
    changes = [*SMALL, models, f"base.weights={bases[kind]}", "base.recipe="]
    recipe = load_recipe(f"adapt/forgetting_{kind}", changes, smoke=True)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, output=tmp_path / "cut", progress=InterruptAt())
    checkpoints = tmp_path / "cut" / "small" / "models" / "second" / "checkpoints"
    assert (checkpoints / f"checkpoint-{CUT}").is_dir()
    cut = run_recipe(recipe, output=tmp_path / "cut", resume=True)
    whole = run_recipe(recipe, output=tmp_path / "whole")
    files = ["model.safetensors"] + (["adapter/adapter.safetensors"] if "adapt" in settings[how] else [])
    for file in files:
        a, b = (load_file(run / "models" / "second" / file) for run in (cut, whole))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
