"""Finding models and pictures."""

import json

import pytest
from PIL import Image

from ssmlab.checkpoints.find import find_folder
from ssmlab.core.errors import ModelError
from ssmlab.core.files import write_records
from ssmlab.core.record import Record
from ssmlab.tasks.classify.predict import find_pictures


def model(folder, validation):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({}))
    (folder / "model.safetensors").write_bytes(b"")
    rows = [("val", None, validation), ("val", 3, 1.0), ("test", None, 1 - validation)]
    records = [Record(metric="accuracy", split=split, step=step, value=value) for split, step, value in rows]
    write_records(folder / "records.jsonl", records)
    return folder


def test_of_several_models_the_best_on_validation_is_taken(tmp_path):
    model(tmp_path / "models" / "a", 0.7)
    assert find_folder(tmp_path, choose=True) == (tmp_path / "models" / "a", "")
    b = model(tmp_path / "models" / "b", 0.9)
    folder, why = find_folder(tmp_path, choose=True)
    assert folder == b and "highest validation accuracy of 2 models" in why
    assert find_folder(b) == (b, "") and find_folder(b / "model.safetensors") == (b, "")
    with pytest.raises(ModelError, match="no trained model in .*nowhere; give runs/<name>"):
        find_folder(tmp_path / "nowhere")


def test_pictures_in_folders(tmp_path):
    for name in ("a.png", "deep/b.JPG", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    files, problems, _ = find_pictures([tmp_path, tmp_path / "empty", tmp_path / "none.png", tmp_path / "notes.txt"])
    assert [file.relative_to(tmp_path).as_posix() for file in files] == ["a.png", "deep/b.JPG", "notes.txt"]
    assert problems == [
        f"{tmp_path / 'empty'}: no pictures in this folder",
        f"{tmp_path / 'none.png'}: no such file or folder",
    ]
