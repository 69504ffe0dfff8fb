"""Every key of every packaged recipe is printed with a meaning."""

import re

import pytest
from typer.testing import CliRunner

from ssmlab.cli.main import app
from ssmlab.core.errors import RecipeError
from ssmlab.tasks.recipe import list_recipes
from ssmlab.tasks.recipe_keys import recipe_keys


@pytest.mark.parametrize("name", [name for name, _ in list_recipes()])
def test_every_key_has_a_meaning(name):
    keys = recipe_keys(name)
    assert len({key.name for key in keys}) == len(keys) > 20
    assert not [key.name for key in keys if not key.meaning]
    assert not [key.name for key in keys if re.search(r"typing|<class|~", key.kind)]


def test_values_defaults_and_ranges():
    keys = {key.name: key for key in recipe_keys("classification/digits_resnet18_vs_hybrid")}
    assert keys["models.*.name"].values == ["resnet18", "resnet18_mamba"] and keys["models.*.name"].required
    assert keys["training.epochs"].kind.startswith("whole number, at least")
    assert keys["device"].kind == "auto | cuda | mps | cpu" and keys["device"].default == "auto"


def test_the_command(tmp_path):
    shown = CliRunner().invoke(app, ["recipes", "classification/own_folder"]).output
    assert 'data.path = ""' in shown and re.search(r"training\.epochs = \d+\n  \w.*\(whole number, .*; default", shown)
    assert shown.count(" = ") > 40
    listed = CliRunner().invoke(app, ["recipes"]).output
    found = CliRunner().invoke(app, ["recipes", "--search", "Segmentation"]).output
    assert 0 < found.count("\n") < listed.count("\n")
    with pytest.raises(RecipeError, match="did you mean"):
        recipe_keys("classification/own_foldr")
