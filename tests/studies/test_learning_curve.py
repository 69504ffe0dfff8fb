"""A learning curve: nested shares, one training each, all models in one plot, and what is finished stays."""

import numpy as np
import pytest

from ssmlab.core.errors import RecipeError
from ssmlab.core.record import read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.studies.learning_curve.subsets import nested
from ssmlab.tasks.recipe import load_recipe

CURVE = "medical/learning_curve"


def items(n=200):
    labels = [0 if i % 10 else 1 for i in range(n)]
    return [f"{i}.png" for i in range(n)], labels, [f"p{i // 4}" for i in range(n)]


@pytest.mark.parametrize("grouped", [False, True])
def test_shares_are_nested_and_have_every_class(grouped):
    ids, labels, groups = items()
    fractions = (0.05, 0.25, 0.5, 1.0)
    found = [set(own) for own in nested(ids, labels, groups if grouped else None, fractions, 0)]
    assert found[0] < found[1] < found[2] < found[3] and len(found[3]) == 200
    for own, fraction in zip(found, fractions, strict=True):
        assert {labels[i] for i in own} == {0, 1}
        assert len(own) >= fraction * 200
        if grouped:
            names = {groups[i] for i in own}
            assert len(own) == 4 * len(names)
        else:
            assert len(own) == pytest.approx(fraction * 200, abs=6)
            share = sum(labels[i] for i in own) / len(own)
            assert share == pytest.approx(0.1, abs=0.06)
    assert found[1] != {*nested(ids, labels, None, fractions, 1)[1]}


def test_fractions_must_grow():
    with pytest.raises(RecipeError, match="fractions grow"):
        load_recipe(CURVE, ["fractions=[0.5,0.25]"], smoke=True)


@pytest.mark.slow
def test_a_run(tmp_path):
    changes = ["models=[{name='resnet_test'},{name='resnet_mamba_test'}]", "fractions=[0.25,1.0]", "data.limit=60"]
    folder = run_recipe(load_recipe(CURVE, changes, smoke=True), output=tmp_path)
    records = read_records(folder / "records.jsonl")
    for label in ("resnet_test", "resnet_mamba_test"):
        own = {(r.metric, r.class_): r for r in records if r.model == label and r.split == "test" and r.step is None}
        assert own["train_images", "25 %"].value < own["train_images", "100 %"].value == 60
        assert own["accuracy", "100 %"].value == own["accuracy", None].value
        assert np.isfinite(own["accuracy", "25 %"].value)
        assert (folder / "models" / label / "share25" / "share.jsonl").is_file()
        assert (folder / "models" / label / "model.safetensors").is_file()
    page = (folder / "report.html").read_text()
    assert "Quality by number of training images" in page and (folder / "plots" / "learning-curve.svg").is_file()
