"""Runs on data that are read in a stream: killed in mid-epoch and continued with the same bits; what is refused."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data.test_stream import write_data_set, write_parquet, write_tars
from ssmlab.core.errors import DataError, Interrupted, RecipeError
from ssmlab.core.progress import Progress
from ssmlab.experiments.run import run_recipe
from ssmlab.tasks.language import streaming
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.table import load_data

SMALL = ["training.epochs=2", "training.min_steps=0", "training.batch_size=8", "data.buffer=10", "name=small",
         "training.checkpoint_steps=2", "evaluation.throughput_repeats=1", "evaluation.bootstrap=100",
         "seeds=[0]"]  # fmt: skip
TEXT = ("language/text", ["models=[{name='mamba_lm_test'}]", "data.length=32", "data.limit=48", "data.stream=true"])
IMAGES = ("classification/own_folder", ["models=[{name='resnet_test'}]", "data.image_size=8", "data.limit=48",
                                        "training.augment.shift=0"])  # fmt: skip


def write_text(path):
    path.write_text("".join(f"line {i}: {'so it goes, ' * (i % 7)}\n" for i in range(900)))
    return path


def write_tokens(path):
    np.random.default_rng(0).integers(0, 256, 40_000).astype(np.uint16).tofile(path)
    return path


FORMS = {
    "text": (TEXT, lambda place: write_text(place / "a.txt")),
    "tokens": (TEXT, lambda place: write_tokens(place / "a.bin")),
    "tar": (IMAGES, lambda place: write_tars(place / "shards", 120, 3)),
    "parquet": (IMAGES, lambda place: write_parquet(place / "parquet", 120, 2)),
    "datasets": (IMAGES, lambda place: write_data_set(place / "saved", 120, 1)),
}


class Listening(Progress):
    """Remembers what was said, and interrupts after a step."""

    def __init__(self, step=0):
        self.step, self.lines = step, []

    def say(self, text):
        self.lines.append(text)

    def start(self, title, *_, **__):
        self.training = title.endswith("_test")

    def update(self, done, note=""):
        if done == self.step and self.training:
            self.step = 0
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, *_: folder / "report.html")


def recipe_of(form, path, *more):
    (name, changes), _ = FORMS[form]
    return load_recipe(name, [*SMALL, *changes, f"data.path={path}", *more], smoke=name == TEXT[0])


def results(folder):
    (model,) = (folder / "models").iterdir()
    rows = [json.loads(line) for line in (model / "records.jsonl").read_text().splitlines()]
    kept = [
        (r["metric"], r["value"], r["step"]) for r in rows if r["metric"] in ("loss", "accuracy", "nll", "perplexity")
    ]
    return load_file(model / "model.safetensors"), kept


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "form", [form if form in ("text", "tar") else pytest.param(form, marks=pytest.mark.slow) for form in FORMS]
)
def test_interrupted_in_mid_epoch_and_continued_is_bit_equal(tmp_path, form):
    path = FORMS[form][1](tmp_path)
    listening = Listening()
    whole = results(run_recipe(recipe_of(form, path), output=tmp_path / "whole", progress=listening))
    assert sum("read in a stream" in line and "MiB" in line for line in listening.lines) == 1
    with pytest.raises(Interrupted):
        run_recipe(recipe_of(form, path), output=tmp_path / "cut", progress=Listening(3))
    (position,) = (tmp_path / "cut").rglob("stream.json")
    assert position.stat().st_size < 2000
    # another number of workers changes nothing, but it belongs to the recipe of a run
    again = results(run_recipe(recipe_of(form, path), output=tmp_path / "cut"))
    assert again[1] == whole[1]
    assert all(torch.equal(again[0][key], whole[0][key]) for key in whole[0])


def test_folders_of_images_and_the_number_of_workers(tmp_path, monkeypatch):
    """The same order and weights with none and with three threads; class folders are streamed where they are large."""
    from ssmlab.tasks.classify import data as module

    images = np.random.default_rng(0).integers(0, 255, (90, 8, 8, 3), dtype=np.uint8)
    for i, pixels in enumerate(images):
        place = tmp_path / "folders" / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        from PIL import Image

        Image.fromarray(pixels).save(place)
    assert load_data(recipe_of("tar", tmp_path / "folders", "data.limit=0")).stream is None
    monkeypatch.setattr(module, "machine_memory", lambda: 10_000)
    loaded = load_data(recipe_of("tar", tmp_path / "folders", "data.limit=0"))
    assert loaded.stream.items == len(images) - len(loaded.val.labels) - len(loaded.test.labels)
    found = []
    for workers in (0, 3):
        data = load_data(recipe_of("tar", tmp_path / "folders", f"data.workers={workers}", "data.stream=true"))
        found.append([id for _, _, id in data.stream.open().take(100)])
    assert found[0] == found[1] and len(set(found[0])) == loaded.stream.items


def test_texts_are_streamed_by_their_size_or_when_asked_for(tmp_path, monkeypatch):
    path = write_text(tmp_path / "a.txt")
    automatic = recipe_of("text", path, "data.stream=auto")
    assert load_data(automatic).train is None
    monkeypatch.setattr(streaming, "machine_memory", lambda: 100_000)
    found = load_data(automatic)
    assert found.train is not None and found.describe["counts"]["train"] == found.train.items == 48
    assert load_data(recipe_of("text", path, "data.stream=false")).train is None
    for changes, said in (
        (["training.carry_state=true"], "leave training.carry_state"),
        (["data.kind=dna"], "data.stream=true is for texts and tokens"),
    ):
        with pytest.raises(RecipeError, match=said):
            recipe_of("text", path, *changes)
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"a\.npy: no array of tokens"):
        load_data(recipe_of("text", tmp_path / "a.npy"))


def test_bits_count_for_bytes_whatever_the_tokens_are(tmp_path):
    """The parts of a text in bytes and of the same text as an array of bytes have as many units as labels."""
    text = write_text(tmp_path / "a.txt")
    np.frombuffer(text.read_bytes(), np.uint8).astype(np.uint16).tofile(tmp_path / "b.bin")
    for path in (text, tmp_path / "b.bin"):
        found = load_data(recipe_of("text", path))
        for part, rows in found.rows.items():
            labels = rows.labels()
            assert found.units[part] == ((labels != -100) & (labels != found.separator_id)).sum() > 0
