"""What a run's folder is, and that nothing else is ever deleted."""

import os
import shutil
from contextlib import suppress

import pytest

from ssmlab.core.errors import UserError
from ssmlab.core.files import write_json
from ssmlab.core.progress import Progress
from ssmlab.experiments.folder import (
    MARKER_FILE,
    PAGE_DUE,
    REPLACED,
    _restore_replaced,
    check_folder,
    claim,
    drop_replaced,
    make_folder,
)
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


def finished(folder, recipe):
    """A run with a trained model, as far as its folder goes."""
    make_folder(recipe, folder)
    (folder / "models" / "a").mkdir(parents=True)
    (folder / "models" / "a" / "records.jsonl").touch()
    write_json(folder / "run.json", {"name": "x", "task": "classify", "models": [], "finished": "today"})
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_same_command_goes_on_with_what_is_not_finished(recipe, tmp_path):
    folder = check_folder(recipe, tmp_path)
    make_folder(recipe, folder)
    assert (folder / MARKER_FILE).is_file()
    check_folder(recipe, tmp_path)
    check_folder(recipe, tmp_path, resume=True)
    finished(tmp_path / "x", recipe)
    with pytest.raises(UserError, match=r"already holds a run \(finished today\); --overwrite starts it again, name="):
        check_folder(recipe, tmp_path)
    (folder / PAGE_DUE).touch()  # it was killed while its page was written
    check_folder(recipe, tmp_path)


def test_a_base_that_the_run_has_filled_in_is_no_other_recipe(tmp_path):
    given = ["name=x", "base.weights="]
    recipe = load_recipe("adapt/forgetting_vision", given, smoke=True)
    filled = load_recipe("adapt/forgetting_vision", given, smoke=True)
    assert recipe.base.recipe
    filled.base.weights = str(tmp_path)
    for model in filled.models:
        model.weights, model.options = str(tmp_path), {"depths": [1, 1]}
    make_folder(filled, tmp_path / "x")
    check_folder(recipe, tmp_path, resume=True)
    other = load_recipe("adapt/forgetting_vision", [*given, "training.epochs=77"], smoke=True)
    with pytest.raises(UserError, match=r"was started with training.epochs=\d+ \(now 77\); resume"):
        check_folder(other, tmp_path, resume=True)
    other = load_recipe("adapt/forgetting_vision", ["name=x", "base.weights=elsewhere"], smoke=True)
    with pytest.raises(UserError, match=r"was started with base.weights='.*' \(now 'elsewhere'\)"):
        check_folder(other, tmp_path, resume=True)


def test_a_run_is_replaced_when_the_new_one_has_a_model(recipe, tmp_path):
    folder = finished(tmp_path / "x", recipe)
    (folder / "old").touch()
    with claim(folder, Progress(), overwrite=True):
        make_folder(recipe, check_folder(recipe, tmp_path, overwrite=True), overwrite=True)
        assert names(folder) == [".lock", ".replaced", MARKER_FILE, "checksums.json", "recipe.toml"]
        assert (folder / REPLACED / "models" / "a").is_dir()
        drop_replaced(folder)
    assert names(folder) == [MARKER_FILE, "checksums.json", "recipe.toml"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("learning_rate")])
def test_a_run_comes_back_where_the_new_one_fails_at_once(recipe, tmp_path, error):
    folder, shown = finished(tmp_path / "x", recipe), []
    progress = Progress()
    progress.say = shown.append
    before = names(folder)

    def fails():
        with claim(folder, progress, overwrite=True):
            make_folder(recipe, folder, overwrite=True)
            (folder / "models" / "new").mkdir(parents=True)
            raise error

    with pytest.raises((KeyboardInterrupt, UserError)):
        fails()
    assert names(folder) == before and names(folder / "models") == ["a"]
    assert shown == [f"{folder}: the run that was to be replaced is back; the new one had trained nothing yet"]


def test_a_new_run_with_a_checkpoint_stays(recipe, tmp_path):
    folder = finished(tmp_path / "x", recipe)
    with suppress(KeyboardInterrupt), claim(folder, Progress(), overwrite=True):
        make_folder(recipe, folder, overwrite=True)
        (folder / "models" / "new" / "checkpoints" / "checkpoint-3").mkdir(parents=True)
        raise KeyboardInterrupt
    with claim(folder, Progress()):
        check_folder(recipe, tmp_path)  # it goes on
        assert names(folder / "models") == ["new"] and (folder / REPLACED / "run.json").is_file()
    with claim(folder, Progress(), overwrite=True):
        make_folder(recipe, folder, overwrite=True)  # that one is given up: the finished one is still kept
        assert not (folder / "models").exists() and (folder / REPLACED / "run.json").is_file()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("moves", range(1, 12))
def test_killed_while_a_run_is_moved_nothing_of_it_is_lost(recipe, tmp_path, monkeypatch, moves, overwrite):
    """Aside and back: after so many renames the process ends without a word."""
    folder = finished(tmp_path / "x", recipe)
    before, left = names(folder), [moves]
    plain = os.replace

    def replace(*paths):
        left[0] -= 1
        if not left[0]:
            raise SystemExit
        plain(*paths)

    with monkeypatch.context() as patch:
        patch.setattr("ssmlab.experiments.folder.os.replace", replace)
        with suppress(SystemExit):
            make_folder(recipe, folder, overwrite=True)
            _restore_replaced(folder)
    with claim(folder, Progress(), overwrite=overwrite):
        if overwrite:
            make_folder(recipe, check_folder(recipe, tmp_path, overwrite=True), overwrite=True)
            assert names(folder / REPLACED) == before
    if not overwrite:
        assert names(folder) == before and names(folder / "models" / "a") == ["records.jsonl"]


def test_what_a_killed_run_has_half_written_is_deleted(recipe, tmp_path):
    folder = tmp_path / "x"
    make_folder(recipe, folder)
    (folder / "models" / "a" / "checkpoints" / ".partial" / "checkpoint-3").mkdir(parents=True)
    (folder / "models" / "b" / "checkpoints" / "checkpoint-9").mkdir(parents=True)
    (folder / "models" / "b" / "records.jsonl").touch()
    (folder / ".samples.partial").mkdir()
    for name in (".tmpAb12xY", ".model.safetensors.1.partial", ".gradients.npz.partial.npz", ".kept", ".tmp"):
        (folder / "models" / "a" / name).touch()
    make_folder(recipe, folder)
    assert names(folder) == [MARKER_FILE, "checksums.json", "models", "recipe.toml"]
    assert names(folder / "models" / "a") == [".kept", ".tmp", "checkpoints"]
    assert not names(folder / "models" / "a" / "checkpoints") and names(folder / "models" / "b") == ["records.jsonl"]


def test_a_folder_is_one_processs(recipe, tmp_path):
    with claim(tmp_path / "x", Progress()), pytest.raises(UserError, match=f"in use by process {os.getpid()} since"):
        claim(tmp_path / "x", Progress(), overwrite=True).__enter__()
    assert not (tmp_path / "x").exists(), "nothing came into it"


def test_places_where_no_run_can_be(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for place, said in (("file", "give the run another name"), ("file/runs/x", "give another --output")):
        with pytest.raises(UserError, match=f"file is a file; {said}"):
            claim(tmp_path / place, Progress()).__enter__()
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written to; change its permissions, or give another --output"):
        claim(tmp_path / "new" / "x", Progress()).__enter__()
    assert names(tmp_path) == ["file"]


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
    with pytest.raises(UserError, match=r"recipe.toml has 18 bytes, [\d,]+ were written; put it back, or start again"):
        check_folder(recipe, tmp_path)
    (tmp_path / "x" / "checksums.json").unlink()
    with pytest.raises(UserError, match="its recipe.toml cannot be read any more; give this one another folder"):
        check_folder(recipe, tmp_path)


def test_runs_without_a_mark_are_known_by_their_run_json(recipe, tmp_path):
    make_folder(recipe, tmp_path / "x")
    (tmp_path / "x" / MARKER_FILE).unlink()
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
    for left in (".recipe.toml.1.partial", f".{MARKER_FILE}.1.partial", MARKER_FILE):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / left).touch()
    folder = check_folder(recipe, tmp_path, **how)
    make_folder(recipe, folder, overwrite=how.get("overwrite", False))
    assert names(folder) == [MARKER_FILE, "checksums.json", "recipe.toml"]
    shutil.rmtree(folder)
