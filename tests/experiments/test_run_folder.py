"""What a run's folder is, and that nothing else is ever deleted."""

import shutil

import pytest

from ssmlab.core.errors import UserError
from ssmlab.experiments.folder import MARK, check_folder, make_folder
from ssmlab.tasks.recipe import load_recipe

DIGITS = "classification/digits_resnet18_vs_hybrid"


@pytest.fixture
def recipe():
    return load_recipe(DIGITS, ["name=x"], smoke=True)


def test_a_folder_with_a_recipe_alone_is_not_deleted(recipe, tmp_path):
    (tmp_path / "x" / "images").mkdir(parents=True)
    (tmp_path / "x" / "recipe.toml").write_text(recipe.to_toml())
    for overwrite in (False, True):
        with pytest.raises(UserError, match="no run was started there; nothing in it is deleted") as found:
            check_folder(recipe, tmp_path, overwrite=overwrite)
        assert "--overwrite" not in str(found.value)
    make_folder(recipe, tmp_path / "x", overwrite=True)  # even without the check
    assert (tmp_path / "x" / "images").is_dir()


def test_a_run_is_replaced_when_that_is_wanted(recipe, tmp_path):
    folder = check_folder(recipe, tmp_path)
    make_folder(recipe, folder)
    (folder / "old").touch()
    assert (folder / MARK).is_file()
    with pytest.raises(UserError, match="already holds a run"):
        check_folder(recipe, tmp_path)
    make_folder(recipe, check_folder(recipe, tmp_path, overwrite=True), overwrite=True)
    assert not (folder / "old").exists() and (folder / "recipe.toml").is_file() and (folder / MARK).is_file()


def test_the_name_of_another_recipes_run_is_taken(recipe, tmp_path):
    """--resume would be refused, so it is not offered."""
    make_folder(recipe, tmp_path / "x")
    other = load_recipe("language/text", ["name=x"], smoke=True)
    with pytest.raises(UserError) as found:
        check_folder(other, tmp_path)
    said = str(found.value)
    assert "x holds a run of another recipe (not finished): task='classify' (now 'language'), " in said
    assert said.endswith("; give this one another folder with name=..., or delete that one with --overwrite")
    longer = load_recipe(DIGITS, ["name=x", "training.epochs=9"], smoke=True)
    with pytest.raises(UserError, match=r"another recipe \(not finished\): training.epochs=2 \(now 9\); give"):
        check_folder(longer, tmp_path)
    (tmp_path / "x" / "recipe.toml").write_text("a key of later = 1")
    with pytest.raises(UserError, match="its recipe.toml cannot be read any more; give this one another folder"):
        check_folder(recipe, tmp_path)


def test_runs_without_a_mark_are_known_by_their_run_json(recipe, tmp_path):
    make_folder(recipe, tmp_path / "x")
    (tmp_path / "x" / MARK).unlink()
    (tmp_path / "x" / "run.json").write_text('{"name": "x", "task": "classify", "models": []}')
    make_folder(recipe, check_folder(recipe, tmp_path, overwrite=True), overwrite=True)
    assert not (tmp_path / "x" / "run.json").exists()


def test_what_a_link_points_to_is_left_alone(recipe, tmp_path):
    make_folder(recipe, tmp_path / "elsewhere")
    (tmp_path / "x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link to .*elsewhere, which --overwrite leaves alone"):
        check_folder(recipe, tmp_path, overwrite=True)
    assert check_folder(recipe, tmp_path, resume=True) == tmp_path / "x"


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_leftovers_of_a_killed_start_are_in_nobodys_way(recipe, tmp_path, how):
    for left in (".recipe.toml.1.partial", f".{MARK}.1.partial", MARK):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / left).touch()
    folder = check_folder(recipe, tmp_path, **how)
    make_folder(recipe, folder, overwrite=how.get("overwrite", False))
    assert sorted(file.name for file in folder.iterdir()) == [MARK, "recipe.toml"]
    shutil.rmtree(folder)
