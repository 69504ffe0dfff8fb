"""Data in a stream under several processes: the rows of one process, divided, and one position for all of them."""

import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from data.test_stream import picture
from experiments.test_stream_runs import FORMS
from processes import assert_same, ended, start, together

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # runs of several processes

SMALL = ["training.precision=float32", "seeds=[0]", "training.epochs=2", "training.min_steps=0", "data.limit=48",
         "training.batch_size=9", "data.buffer=10", "data.stream=true", "evaluation.throughput_repeats=1",
         "evaluation.bootstrap=100"]  # fmt: skip
RECIPES = {
    "text": ["language/text", [*SMALL, "models=[{name='mamba_lm_test'}]", "data.length=32"]],
    "images": ["classification/own_folder",  # without batch norm, dropout and augmentation
               [*SMALL, "models=[{name='vim_test',options={drop_path_rate=0.0}}]", "data.image_size=16",
                *(f"training.augment.{name}=0" for name in ("shift", "scale", "rotate", "random_erasing")),
                "training.augment.flip='none'", "training.ema=0"]],
}  # fmt: skip
KINDS = {"text": "text", "tokens": "text"} | dict.fromkeys(("folders", "tar", "parquet", "datasets"), "images")
WORKERS = {"folders": 0, "tar": 3}  # threads; where nothing is said, 1


def write_folders(place):
    for number in range(120):
        path = place / "folders" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return place / "folders"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The path of every kind of data."""
    place = tmp_path_factory.mktemp("data")
    writers = {name: write for name, (_, write) in FORMS.items()} | {"folders": write_folders}
    return {kind: writers[kind](place) for kind in KINDS}


def jobs(data, prefix, *changes, kinds=KINDS):
    found = []
    for kind in kinds:
        recipe, own = RECIPES[KINDS[kind]]
        workers = [f"data.workers={WORKERS.get(kind, 1)}"]
        found.append([recipe, [*own, *workers, *changes, f"data.path={data[kind]}", f"name={prefix}-{kind}"]])
    return found


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    together(1, "launched", "runs", jobs(data, "run"), str(folder))
    return folder


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    full = jobs(data, "full", "training.sharding='full'", kinds=("text", "tar"))
    together(2, "launched", "runs", [*jobs(data, "run"), *full], str(folder))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(one, two, kind):
    assert_same(one / f"run-{kind}", two / f"run-{kind}")
    if (two / f"full-{kind}").is_dir():
        assert_same(one / f"run-{kind}", two / f"full-{kind}")


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """Runs of two processes, of which the second was asked to stop in the fourth of ten steps."""
    folder = tmp_path_factory.mktemp("stopped")
    found = ended(start(2, "launched", "runs", jobs(data, "run"), str(folder), [1, 4, signal.SIGTERM]))
    assert [code for code, _ in found] == [143, 143], found
    return folder


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_checkpoint_of_two_goes_on_with_any_number(data, one, two, stopped, tmp_path, size):
    shutil.copytree(stopped, tmp_path / "runs")
    for kind in KINDS:
        (checkpoint,) = (tmp_path / "runs" / f"run-{kind}").glob("models/*/checkpoints/checkpoint-*")
        assert checkpoint.name == "checkpoint-5" and (checkpoint / "stream.json").is_file()
    together(size, "launched", "runs", jobs(data, "run"), str(tmp_path / "runs"))
    for kind in KINDS:
        whole, again = two / f"run-{kind}", tmp_path / "runs" / f"run-{kind}"
        assert_same(one / f"run-{kind}", again)
        if size == 2:
            assert_equal_bits(whole, again)


@pytest.mark.parametrize("kind", ["text", "tar"])
def test_where_one_is_killed_the_run_goes_on_to_the_same_bits(data, two, tmp_path, kind):
    job = jobs(data, "run", "training.checkpoint_steps=2", kinds=[kind])
    found = ended(start(2, "launched", "runs", job, str(tmp_path), [1, 8, signal.SIGKILL]))
    assert [code for code, _ in found] == [1, -signal.SIGKILL]
    together(2, "launched", "runs", job, str(tmp_path))
    assert_equal_bits(two / f"run-{kind}", tmp_path / f"run-{kind}")


def assert_equal_bits(whole, again):
    assert_same(whole, again, tolerance=0)
    first, second = (load_file(next(folder.glob("models/*/model.safetensors"))) for folder in (whole, again))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
