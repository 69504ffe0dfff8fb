"""Mistakes: which are found, which are chosen, and the recipe that explains them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ssmlab.core.errors import RecipeError, UserError
from ssmlab.core.record import Record, read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.studies.explain.experiment import doubt_of
from ssmlab.studies.explain.mistakes import Mistake, choose, find_mistakes
from ssmlab.studies.explain.opening import Opened
from ssmlab.tasks.classify.task import Classify
from ssmlab.tasks.recipe import load_recipe

RECIPE = "interpret/misclassified"
SMALL = ["data.limit=150", "training.min_steps=50", "evaluation.throughput_repeats=1", "evaluation.explain.steps=2"]


class Bright(nn.Module):
    """Class 1 where an image is bright."""

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


def darker(images, index):
    assert images.dtype == torch.uint8 and len(images) == len(index)
    return (images.float() * (index % 2)[:, None, None, None]).byte()  # every second one turns black


def test_what_a_change_turns_wrong():
    model = Opened(
        title="bright", origin="", network=Bright(), image_size=4, device="cpu",
        task=Classify(classes=("dark", "bright"), mean=(0.5,) * 3, std=(0.1,) * 3),
    )  # fmt: skip
    images = torch.tensor([200, 250, 20, 10, 220, 30]).byte().view(6, 1, 1, 1).expand(-1, 3, 4, 4)
    labels = np.array([1, 1, 0, 1, 1, 0])  # the fourth is wrong from the start
    found, records, before = find_mistakes(model, images, labels, {"darker": darker}, batch_size=4)
    assert [mistake.index for mistake in found["darker"]] == [0, 4] and before.shape == (6, 2)
    assert all(mistake.predicted == 0 and mistake.probability > 0.5 for mistake in found["darker"])
    (record,) = records
    assert (record.metric, record.value, record.class_, record.n) == ("turned_wrong", 2 / 6, "darker", 6)
    found, records, _ = find_mistakes(model, images, labels, {}, batch_size=4)
    assert [mistake.index for mistake in found[None]] == [3] and records[0].metric == "wrong"


def test_mistakes_are_chosen_by_turns():
    a, b = ([Mistake(i, name, 0, 1.0) for i in order] for name, order in (("a", (1, 2, 3)), ("b", (2, 4))))
    assert [(m.index, m.change) for m in choose({"a": a, "b": b}, 3)] == [(1, "a"), (2, "b"), (4, "b")]
    assert [m.index for m in choose({"a": a, "b": b}, 9)] == [1, 2, 4, 3] and choose({"a": []}, 2) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_recipe(load_recipe(RECIPE, SMALL, smoke=True), output=tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_the_recipe_explains_a_model_that_it_trains(run):
    page = (run / "explained/vmamba_test/report.html").read_text("utf-8")
    assert "Before" in page and "True class " in page and "right as it was" in page
    records = read_records(run / "records.jsonl")
    turned = {r.class_: r.value for r in records if r.metric == "turned_wrong" and r.split == "test"}
    assert set(turned) == {"gaussian_blur", "affine"} and 0 < sum(turned.values()) < 2
    assert any(r.metric == "train_seconds" for r in records) and (run / "report.html").is_file()


def test_a_trained_model_is_explained_without_training(run, tmp_path):
    trained = f"models.0.weights={run / 'models/vmamba_test'}"
    changes = [*SMALL, trained, "name=again", "evaluation.explain.transformations=[]", "evaluation.explain.pictures=1"]
    again = run_recipe(load_recipe(RECIPE, changes, smoke=True), output=tmp_path)
    records = {r.metric: r.value for r in read_records(again / "records.jsonl") if r.split in ("test", None)}
    before = {r.metric: r.value for r in read_records(run / "records.jsonl") if r.split in ("test", None)}
    assert "train_seconds" not in records and records["accuracy"] == before["accuracy"]
    assert records["wrong"] == pytest.approx(1 - records["accuracy"])
    for folder in (again, run):
        page = (folder / "explained/vmamba_test/report.html").read_text("utf-8")
        assert "comes from a trial run (--smoke): these pictures say little" in page
    assert "taken for" in (again / "explained/vmamba_test/report.html").read_text("utf-8")


def test_the_curves_and_the_test_part_of_a_model_make_doubts_before_records_are_written(tmp_path):
    recipe, data = load_recipe(RECIPE, SMALL), SimpleNamespace(describe={})
    (model,) = recipe.models
    job = SimpleNamespace(model=model, seed=0, folder=tmp_path)

    def of(losses, right):
        curve = [Record(metric="loss", value=loss, step=i) for i, loss in enumerate(losses)]
        support = [Record(metric="support", value=50, class_=name) for name in "ab"]
        test = [Record(metric="accuracy", value=right, n=100), *support]
        return doubt_of(recipe, data, job, {"train": curve, "test": test})

    falling = [3 - i / 10 for i in range(20)]
    assert of(falling, 0.95) == ""
    assert of(falling, 0.5).startswith(f"{model.title} is at chance (")
    assert of([3.0] * 20, 0.95).startswith(f"{model.title} made no progress (")


def test_what_does_not_fit_is_told_before_training(run, tmp_path):
    trained = f"models.0.weights={run / 'models/vmamba_test'}"
    for change, said in (
        ([trained, "models.0.name=vim_test"], r"was trained with vmamba_test, .* vim_test; change models\.\*\.name"),
        ([trained, "data.image_size=40"], r"was trained with 32, the recipe has 40; change data\.image_size"),
        (['evaluation.explain.transformations=["gausian_blur"]'], "gaussian_blur"),
    ):
        with pytest.raises((RecipeError, UserError), match=said):
            run_recipe(load_recipe(RECIPE, [*SMALL, *change], smoke=True), output=tmp_path)
    assert not list(tmp_path.glob("*/models/*/model.safetensors"))
