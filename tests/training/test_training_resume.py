"""A checkpoint is complete or it does not count."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ssmlab.core.files import write_atomically
from ssmlab.training.resume import PARTIAL, commit, is_complete, newest_complete

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "clock.json")


def write(folder):
    folder.mkdir(parents=True)
    save_file({"w": torch.zeros(1000)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.zeros(1000)}, folder / name)
    for name in ("trainer_state.json", "clock.json"):
        (folder / name).write_text(json.dumps({"seconds": 1.0}))
    return folder


def test_the_newest_complete_one_is_chosen(tmp_path):
    assert newest_complete(tmp_path) is None
    for step in (5, 40, 100):
        write(tmp_path / f"checkpoint-{step}")
    assert newest_complete(tmp_path).name == "checkpoint-100"  # a number, not a text: "40" > "100"
    (tmp_path / "checkpoint-100" / "trainer_state.json").unlink()
    assert newest_complete(tmp_path).name == "checkpoint-40"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_damaged_file_makes_it_incomplete(tmp_path, name, damage):
    checkpoint = write(tmp_path / "checkpoint-1")
    assert is_complete(checkpoint)
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).unlink()
    if damage != "missing":
        (checkpoint / name).write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    assert not is_complete(checkpoint)


def test_commit_moves_the_whole_and_leaves_nothing_else(tmp_path):
    write(tmp_path / "checkpoint-1")
    write(tmp_path / PARTIAL / "checkpoint-2")
    assert newest_complete(tmp_path).name == "checkpoint-1"  # what is being written is not seen
    commit(tmp_path, "checkpoint-2")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
