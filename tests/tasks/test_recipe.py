"""Recipes: every packaged one is valid, overrides are typed, and mistakes name the key that was meant."""

import subprocess
import sys
import tomllib
from typing import get_args

import pytest
from pydantic import BaseModel

from ssmlab.core.errors import RecipeError
from ssmlab.tasks.classify.recipe import Recipe
from ssmlab.tasks.overrides import dotted_keys, flatten, parse_override
from ssmlab.tasks.recipe import list_recipes, load_recipe
from ssmlab.tasks.table import TASKS, recipe_class

DIGITS = "classification/digits_resnet18_vs_hybrid"
MHIST = "classification/mhist_resnet18_vs_hybrid"
OFFLINE = {
    "classify": {"digits"}, "language": {"pydoc", "generated"}, "classify_sequence": {"generated"},
    "synthetic": {"selective_copying", "induction_heads", "parity", "modular_arithmetic"}, "scaling": {"random"},
    "robustness": {"digits"}, "misclassified": {"digits"},
    "learning_curve": {"digits"},
    "segment": {"shapes"}, "translate": {"generated"}, "vision_language": {"generated"},
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, _ in list_recipes()])
def test_packaged_recipes(name):
    full = load_recipe(name, ["data.path=somewhere"])
    tiny = load_recipe(name, smoke=True)
    assert tiny.seeds == full.seeds[:1]
    assert tiny.name == f"{full.name}-smoke" and tiny.data.path in OFFLINE[tiny.task]
    small = all(model.name.endswith("_test") or model.name.startswith("timm/") for model in tiny.models)
    assert tiny.task != "classify" or small
    assert not getattr(tiny.training, "min_steps", 0), "a tiny form has as many epochs as it says"
    comment = dict(list_recipes())[name]
    assert comment.startswith("ssmlab ") and comment.count("|") == 3, "command | hardware | time | expected result"


def test_epochs_that_are_asked_for_are_those_that_are_run():
    def steps(*changes):
        return load_recipe(MHIST, ["data.path=x", *changes]).training.min_steps

    assert steps() == 600 and steps("training.epochs=1") == 0
    assert steps("training.epochs=1", "training.min_steps=50") == 50


TRIALS = {"trials.grid", "trials.own", "trials.had"}  # empty tables


def test_the_resolved_recipe_shows_every_key_and_reads_back():
    recipe = load_recipe(DIGITS, ["seeds=[1, 2]", "models.1.options.depth=2"])
    table = tomllib.loads(recipe.to_toml())
    shown = {key.replace(".0.", ".*.") for key in flatten(table)}
    assert set(dotted_keys(Recipe)) - {"models.*.options", "models.*.training", "training.rates", *TRIALS} <= shown
    assert Recipe.model_validate(table) == recipe and recipe.models[1].options == {"depth": 2}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.epochs=3", 3),
        ("training.learning_rate=1e-4", 1e-4),
        ("training.learning_rate=1", 1.0),
        ("data.path=/some/folder with blanks", "/some/folder with blanks"),
        ('data.path="quoted"', "quoted"),
        ("seeds=[0, 1]", [0, 1]),
        ("name=2024", "2024"),
        ("models.0.label=1.5", "1.5"),
        ("models.1.pretrained=true", True),
    ],
)
def test_overrides_are_typed(override, value):
    keys, _, _ = parse_override(override)
    node = load_recipe(DIGITS, [override]).model_dump()
    for key in keys:
        node = node[int(key)] if isinstance(node, list) else node[key]
    assert node == value and type(node) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lerning_rate=1", "unknown key training.lerning_rate; did you mean training.learning_rate?"),
        ("learning_rate=1", "unknown key learning_rate; did you mean training.learning_rate?"),
        ("training.augment.rotation=1", "did you mean training.augment.rotate?"),
        ("training.iterations=9", "did you mean training.min_steps?"),
        ("training.zzz=9", "unknown key training.zzz; training has epochs, "),
        ("model.name=x", "unknown key model; did you mean models?"),
        ("data.imagesize=3", "did you mean data.image_size?"),
        ("models.1.titel=x", "unknown key models.1.titel; did you mean models.1.title?"),
        ("name.x=1", "unknown key name.x"),
        ("models.3.name=x", "no entry models.3; there are models.0 to models.1"),
        ("training.epochs=many", "training.epochs should be a valid integer, got 'many'"),
        ("seeds=[]", "seeds should have at least 1, got []"),
        ("training.epochs=0", "training.epochs should be greater than or equal to 1, got 0"),
        ("training.optimizer=lion", "training.optimizer should be 'adam', 'adamw' or 'sgd', got 'lion'"),
        ("models.0.name=resnet81", "models.0: unknown model 'resnet81'; did you mean resnet18"),
        ("models.0.label=a/b", "label 'a/b' names a folder"),
        ("models.0.label=resnet18_mamba", "two models are labelled 'resnet18_mamba'"),
        ("models.0.options.num_classes=3", "option num_classes is set by the recipe"),
        ("name=../elsewhere", "name '../elsewhere' names a folder below runs/"),
        ("seeds=[1, 1]", "seeds has one twice"),
        ("nonsense", "override 'nonsense' is not of the form key=value"),
        ("training.epochs=3\nbatch_size=4", "training.epochs should be a valid integer"),
    ],
)
def test_mistakes(override, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(DIGITS, [override])
    assert message in str(caught.value)
    if "override" not in message:
        assert str(caught.value).startswith(f"recipe {DIGITS}: ")


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("text", "task=speech", "task should be one of classify, language"),
        ("text", "models.0.name=mamba_lm_13m", "unknown language model 'mamba_lm_13m'; did you mean mamba_lm"),
        ("text", "models.0.options.vocab_size=3", "option vocab_size is set by the recipe"),
        ("text", "models.1.training.learning_rte=1", "models.1.training.learning_rte: Extra inputs are not permitted"),
        ("text", "models.0.weights=nowhere", "weights nowhere: no such folder"),
        ("text", "data.lenght=3", "unknown key data.lenght; did you mean data.length?"),
        ("text", "training.mixup=1", "unknown key training.mixup"),
        ("finetune", "data.template.user=hello", "template.user must hold {text} once"),
        ("finetune", "training.carry_state=true", "carry_state is for streams"),
        ("classify_text", "head.pool=middle", "head.pool should be 'mean' or 'last'"),
    ],
)
def test_mistakes_about_sequences(recipe, override, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(f"language/{recipe}", ["data.path=x", override])
    assert message in str(caught.value)


def test_a_model_may_be_trained_differently():
    recipe = load_recipe("language/text", ["data.path=x", "models.1.training.learning_rate=0.5"])
    rates = [recipe.training_of(model).learning_rate for model in recipe.models]
    assert rates[1] == 0.5 and set(rates[:1] + rates[2:]) == {recipe.training.learning_rate}
    assert type(recipe).model_validate(tomllib.loads(recipe.to_toml())) == recipe


def test_all_mistakes_are_reported_together():
    with pytest.raises(RecipeError) as caught:
        load_recipe(DIGITS, ["training.epoch=1", "data.val_fraction=2"])
    assert len(str(caught.value).splitlines()) == 2


def test_data_without_a_default_is_asked_for():
    with pytest.raises(RecipeError, match=r"data\.path is missing; add data\.path=\.\.\. \(an MHIST folder"):
        load_recipe(MHIST)


def test_finding_recipes(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[data]\npath = "digits"\n[[models]]\nname = "resnet_test"\n')
    mine = load_recipe(file)
    assert mine.name == "mine" and mine.models[0].label == "resnet_test" and mine.seeds == [0]
    with pytest.raises(RecipeError, match=r"has no \[smoke\] table"):
        load_recipe(file, smoke=True)
    with pytest.raises(RecipeError, match=f"did you mean {DIGITS}"):
        load_recipe("classification/digit_resnet_vs_hybrid")
    (tmp_path / "recipe.toml").write_text(mine.to_toml())
    assert load_recipe(tmp_path) == mine
    file.write_text("[data\n")
    with pytest.raises(RecipeError, match="not valid TOML"):
        load_recipe(file)


def test_recipes_are_checked_without_torch():
    code = (
        "import sys, ssmlab.experiments.run, ssmlab.experiments.sweep; from ssmlab.tasks.recipe import load_recipe; "
        f"load_recipe('{DIGITS}'); assert not {{'torch', 'transformers', 'timm', 'sklearn'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_epochs_mean_nothing_where_iterations_count():
    own = ("segmentation/own_folder", ["data.path=x"])
    assert load_recipe(*own).training.epochs == 10
    with pytest.raises(RecipeError, match=r"iterations count here; set training\.iterations and training\.validations"):
        load_recipe(own[0], ["data.path=x", "training.epochs=3"])
    recipe = load_recipe(own[0], ["data.path=x", "models.0.training={validations=5}"])
    assert recipe.training_of(recipe.models[0]).epochs == 5 and recipe.training_of(recipe.models[1]).epochs == 10
    assert "epochs" not in recipe.to_toml()


def test_a_run_of_other_models_is_called_after_them():
    assert load_recipe(DIGITS).description.startswith("ResNet-18 against")
    assert load_recipe(DIGITS, ["models.0.training={epochs=3}"]).description == load_recipe(DIGITS).description
    changed = load_recipe(DIGITS, ["models.1.name=timm/convnext_atto"])
    assert changed.description == "ResNet-18 against convnext_atto"
    assert load_recipe(DIGITS, ["models=[{name='vim_test'}]"]).description == "a small Vim for tests"
    assert load_recipe(DIGITS, ["models.1.name=vim_test", "description=mine"]).description == "mine"
    assert load_recipe(DIGITS, smoke=True).description == load_recipe(DIGITS).description


def test_a_third_model_by_its_number():
    recipe = load_recipe(DIGITS, ["models.2.name=vim_test", "models.2.label=third"])
    assert [model.name for model in recipe.models][2:] == ["vim_test"] and recipe.models[2].label == "third"
    assert recipe.description == "ResNet-18 against ResNet-18 + Mamba against a small Vim for tests"
    with pytest.raises(RecipeError, match=r"no entry models\.3; there are models\.0 to models\.1"):
        load_recipe(DIGITS, ["models.3.name=vim_test"])


def leaves(table, prefix=""):
    for name, field in table.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        tables = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if tables:
            yield from leaves(tables[0], f"{prefix}{name}.")
        else:
            yield prefix + name, field.description


@pytest.mark.parametrize("task", TASKS)
def test_every_key_says_what_it_means(task):
    found = dict(leaves(recipe_class(task)))
    assert len(found) > 20
    assert [key for key, text in found.items() if not text and key != "task"] == []


def test_a_folder_named_models_next_to_the_user_is_no_run(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("language/text", ["data.path=pydoc"])
    assert recipe.model == "" and not any(model.weights for model in recipe.models)
