"""The parts of data follow from what is in the folder, not from where it lies or how its path is written."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.table import load_data

LINES = [f"{'a great film' if i % 2 else 'a bad film'} of nineteen {i}" for i in range(40)]


def picture(path, i):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)


def classes(folder):
    for i in range(40):
        picture(folder / f"class {i % 2}" / f"{i}.png", i)


def masks(folder):
    for i in range(20):
        picture(folder / "images" / f"{i}.png", i)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), 255 * (np.arange(8) > 3), np.uint8)).save(folder / "masks" / f"{i}.png")


def labelled(folder):
    for i, line in enumerate(LINES):
        (folder / ("good" if i % 2 else "bad")).mkdir(exist_ok=True)
        (folder / ("good" if i % 2 else "bad") / f"{i}.txt").write_text(line)


def documents(folder):
    for i, line in enumerate(LINES):
        (folder / f"{i}.txt").write_text(line * 20)


def pairs(folder):
    (folder / "text.en").write_text("\n".join(LINES) + "\n")
    (folder / "text.fr").write_text("\n".join(line.upper() for line in LINES) + "\n")


def conversations(folder):
    records = []
    for i in range(24):
        picture(folder / "images" / f"{i}.png", i)
        said = [{"from": "human", "value": "<image>\nWhich number?"}, {"from": "gpt", "value": str(i)}]
        records.append({"id": str(i), "image": f"{i}.png", "conversations": said})
    (folder / "records.json").write_text(json.dumps(records))


def captions(folder):
    for i in range(24):
        picture(folder / f"{i}.png", i)
        (folder / f"{i}.txt").write_text(LINES[i])


DATA = {
    classes: ("classification/own_folder", []),
    masks: ("segmentation/own_folder", []),
    labelled: ("language/classify_text", []),
    documents: ("language/text", []),
    pairs: ("translation/own_files", ["data.source=en", "data.target=fr", "data.vocabulary=300"]),
    conversations: ("vision_language/own_data", []),
    captions: ("vision_language/own_data", []),
}


@pytest.mark.parametrize("make", DATA, ids=lambda make: make.__name__)
def test_parts_stay_when_a_folder_is_moved(make, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "another place" / "of" / "data")
    monkeypatch.chdir(tmp_path)
    recipe, changes = DATA[make]
    found = {
        load_data(load_recipe(recipe, [f"data.path={path}", *changes])).describe["split_hash"]
        for path in ("data", "./data/", tmp_path / "data", tmp_path / "another place" / "of" / "data")
    }
    assert len(found) == 1
