"""The parts of data follow from what is in the folder, not from where it lies or how its path is written."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from trees import fill, write

from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.table import load_data


def classes(folder):
    fill(folder, ["one", "two"], 20, "png")


def masks(folder):
    fill(folder, ["images"], 20, "png")
    (folder / "masks").mkdir()
    for i in range(20):
        Image.fromarray(np.full((6, 6), 255 * (np.arange(6) > 3), np.uint8)).save(folder / "masks" / f"{i}.png")


def labelled(folder):
    fill(folder, ["good", "bad"], 20, "txt")


def documents(folder):
    for i in range(40):
        write(folder, f"{i}.txt", content=f"nineteen {i} ".encode() * 20)


def pairs(folder):
    lines = [f"a film of nineteen {i}\n" for i in range(40)]
    (folder / "text.en").write_text("".join(lines))
    (folder / "text.fr").write_text("".join(lines).upper())


def conversations(folder):
    fill(folder, ["images"], 24, "png")
    records = []
    for i in range(24):
        said = [{"from": "human", "value": "<image>\nWhich number?"}, {"from": "gpt", "value": str(i)}]
        records.append({"id": str(i), "image": f"{i}.png", "conversations": said})
    (folder / "records.json").write_text(json.dumps(records))


def captions(folder):
    write(folder, *(f"{i}.{ending}" for i in range(24) for ending in ("png", "txt")))


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
