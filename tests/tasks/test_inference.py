"""Finding models and pictures."""

import json
import re

import pytest
from PIL import Image

from ssmlab.checkpoints.find import find_folder
from ssmlab.core.errors import ModelError
from ssmlab.core.files import write_json, write_records
from ssmlab.core.record import Record
from ssmlab.data.images.decode import UnreadableImage, decode
from ssmlab.data.parts import files_in


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


def test_a_run_that_is_not_finished_is_said_to_be_so(tmp_path):
    run = tmp_path / "run"
    write_json(run / "run.json", {"name": "run", "finished": None})
    goes_on = f"{run} is not finished; `ssmlab run {run} --resume` goes on with it"
    with pytest.raises(ModelError, match=re.escape(f"no trained model in {run}; {goes_on}")):
        find_folder(run, choose=True)
    a = model(run / "models" / "a", 0.7)
    assert find_folder(run, choose=True) == (a, goes_on)
    model(run / "models" / "b", 0.6)
    assert find_folder(run, choose=True) == (a, f"{goes_on}; using {a} (highest validation accuracy of 2 models)")
    (run / "run.json").write_text("{")  # damaged
    assert find_folder(run, choose=True) == (a, f"using {a} (highest validation accuracy of 2 models)")
    write_json(run / "run.json", {"name": "run", "finished": "now"})
    assert find_folder(run, choose=True) == (a, f"using {a} (highest validation accuracy of 2 models)")


@pytest.mark.parametrize(
    ("metric", "values", "said"),
    [
        ("dice", (0.2, 0.5), "highest validation Dice"),
        ("loss", (0.2, 0.1), "lowest validation loss"),
        ("seconds", (1, 2), None),
    ],
)
def test_models_of_every_task_are_chosen_on_the_validation_part(tmp_path, metric, values, said):
    for name, value in zip("ab", values, strict=True):
        folder = model(tmp_path / "models" / name, 0)
        write_records(folder / "records.jsonl", [Record(metric=metric, split="val", value=value)])
    folder, why = find_folder(tmp_path, choose=True)
    assert folder.name == ("b" if said else "a")
    assert (f"({said} of 2 models)" if said else "the first of 2 models, of which none was validated") in why


def test_heic_is_called_by_its_name(tmp_path):
    with pytest.raises(UnreadableImage, match="HEIC or AVIF, a format that is not read; convert it to JPEG or PNG"):
        decode(b"\0\0\0\x18ftypheic" + bytes(50))


def test_pictures_in_folders(tmp_path):
    for name in ("a.png", "deep/b.JPG", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    files, problems, _ = files_in(
        [tmp_path, tmp_path / "empty", tmp_path / "none.png", tmp_path / "notes.txt"], "image", "pictures", strict=True
    )
    assert [file.relative_to(tmp_path).as_posix() for file in files] == ["a.png", "deep/b.JPG", "notes.txt"]
    assert problems == [
        f"{tmp_path / 'empty'}: no pictures in this folder",
        f"{tmp_path / 'none.png'}: no such file or folder",
    ]
