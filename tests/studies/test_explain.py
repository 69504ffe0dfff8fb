"""`ssmlab explain`: how a model is opened, classes are named, and what stands on the page."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ssmlab.checkpoints.folder import save_model
from ssmlab.cli.explain import spread
from ssmlab.cli.main import main
from ssmlab.core.errors import ModelError, UserError
from ssmlab.core.files import write_records
from ssmlab.core.record import Record, read_records
from ssmlab.interpret.pictures import outlined, over, ramp, source
from ssmlab.interpret.visualise import Search
from ssmlab.models import create_model
from ssmlab.models.catalogue import class_names
from ssmlab.studies.explain.explanation import Settings, enlarged, explain
from ssmlab.studies.explain.opening import find_classes, open_model, read_pictures
from ssmlab.studies.explain.page import page

CLASSES = ("cat", "dog", "guinea pig", "7")
QUICK = Settings(search=Search(steps=2), gradient_steps=4, score_steps=4, random=2)
SIZES = {"vmamba_test": 32, "vim_test": 32, "mambavision_test": 64, "resnet_mamba_test": 32, "resnet_test": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models that learnt nothing, saved as a run saves them, and pictures of other sizes."""
    place = tmp_path_factory.mktemp("explained")
    torch.manual_seed(0)
    for name, size in SIZES.items():
        model = create_model(name, num_classes=len(CLASSES), image_size=size)
        how = {"image_size": size, "mean": [0.5] * 3, "std": [0.25] * 3, "classes": CLASSES, "channels": 3}
        save_model(model, place / "runs" / "pets" / "models" / name, how)
    random = np.random.default_rng(0)
    for name, (h, w) in {"a.png": (40, 60), "b.jpg": (33, 33)}.items():
        Image.fromarray(random.integers(0, 255, (h, w, 3), np.uint8)).save(place / name)
    (place / "broken.png").write_bytes(b"no picture")
    return place


def test_classes_by_name_and_by_index():
    names = class_names("imagenet-1k")
    assert len(names) == 1000 and find_classes(["Guacamole", "plate"], names) == [924, 923]
    assert find_classes(["tench", "Tinca tinca", "1"], names) == [0, 1]
    assert find_classes(["7", "0", "dog"], CLASSES) == [3, 0, 1]  # a name comes before an index
    with pytest.raises(UserError, match=r"--classes 'guacamol' is no class of this model; did you mean guacamole\?"):
        find_classes(["guacamol"], names)
    with pytest.raises(UserError, match=r"'crane' is the name of several classes; give an index: 134 .*, 517 "):
        find_classes(["crane"], names)
    with pytest.raises(UserError, match=r"'xyz' .* there are cat, dog, guinea pig, 7; an index, from 0, will do too"):
        find_classes(["xyz"], CLASSES)
    with pytest.raises(UserError, match=r"'4000' .* there are 1,000: tench, goldfish"):
        find_classes(["4000"], names)


def test_models_are_opened(folder, monkeypatch):
    monkeypatch.chdir(folder)
    runs = Path("runs")
    opened, why = open_model("runs/pets/models/vim_test")
    assert opened.classes == CLASSES and opened.grey and not opened.untrained and why == ""
    by_run, why = open_model("pets")
    assert "the first of 5 models, of which none was validated" in why and by_run.image_size in (32, 64)
    fresh, _ = open_model("vim_test")
    assert fresh.untrained and len(fresh.classes) == 1000 and not fresh.grey
    again, _ = open_model("vim_test")
    assert torch.equal(fresh.network.head.weight, again.network.head.weight)
    timm, _ = open_model("timm/test_vit")
    assert timm.image_size == 160 and len(timm.classes) == 1000
    save_file(fresh.network.state_dict(), folder / "imagenet.safetensors")
    given, _ = open_model("vim_test", weights="imagenet.safetensors")
    assert given.origin == "imagenet.safetensors" and not given.untrained
    with pytest.raises(UserError, match=r"these are not for ImageNet's 1,000 classes"):
        open_model("vim_test", weights="runs/pets/models/vim_test")
    with pytest.raises(UserError, match="leave the option out"):
        open_model("pets", weights="file.pth", runs=runs)
    with pytest.raises(ModelError, match=r"no model 'vim_tets'; did you mean vim_test"):
        open_model("vim_tets")


@pytest.mark.parametrize("name", SIZES)
def test_every_family_is_explained(folder, name):
    opened, _ = open_model(str(folder / "runs/pets/models" / name))
    files, pictures, problems = read_pictures([folder / "a.png", folder / "broken.png"], opened.image_size)
    assert [file.name for file in files] == ["a.png"] and "broken.png: cannot be read" in problems[0]
    found = explain(opened, pictures, ["a.png"], QUICK)
    (picture,) = found.pictures
    assert [each.index for each in picture.classes] == [index for index, _ in picture.ranking[:2]]
    assert sum(p for _, p in picture.ranking) == pytest.approx(1, abs=1e-5)
    assert set(found.learned) == {each.index for each in picture.classes}
    for each in picture.classes:
        assert each.camera.shape == each.gradients.shape == pictures.shape[1:3] and each.camera.min() >= 0
        assert set(each.curves) == {"camera", "gradients", "random"}
        whole = each.curves["random"]["deletion"].probability[0]
        assert float(whole) == pytest.approx(each.probability, abs=1e-5)
    assert bool(picture.scans) == (name != "resnet_test")
    for scan in picture.scans:
        assert scan.steps.shape == scan.states.shape and scan.steps.min() > 0
        for text, weights, place in scan.attention:
            assert weights.shape == scan.steps.shape and weights.max() > 0
            assert (place is None) == (text == "class token") == (name == "vim_test")
    assert found.sanity.correlation.shape == (4, 1)
    assert found.camera == ("HiResCAM" if name == "vim_test" else "Grad-CAM")
    assert np.isfinite([found.field.radius(0.5), found.field.radius(0.95)]).all()


def test_classes_may_be_asked_for_each_picture(folder):
    opened, _ = open_model(str(folder / "runs/pets/models/vim_test"))
    pictures = np.zeros((2, 32, 32, 3), np.uint8)
    bare = replace(QUICK, score_steps=0, search=Search(steps=0))
    found = explain(
        opened, pictures, ["x", "y"], bare, classes=[[0], [2, 3]], notes=["", "why"], before=[None, pictures[0]]
    )
    assert [[each.index for each in picture.classes] for picture in found.pictures] == [[0], [2, 3]]
    assert found.learned == {} and found.sanity is None and not found.pictures[0].classes[0].curves
    assert found.pictures[1].note == "why" and found.pictures[0].before is None


def test_the_page_names_a_file_without_its_folders_and_keeps_percentages_whole(folder):
    opened, _ = open_model(str(folder / "runs/pets/models/resnet_test"))
    file, bare = str(folder / "a.png"), replace(QUICK, score_steps=2, search=Search(steps=0))
    found = explain(opened, np.zeros((2, 32, 32, 3), np.uint8), [file, "test/7.png"], bare)
    made = page(found, heading=f"Net: {file}", answer=f"{file}: cat", eyebrow="e", facts=[])
    assert "<title>Net: a.png –" in made and "<h1>Net: a.png</h1>" in made and ">a.png: cat</p>" in made
    assert made.count(file) == 1 and f'<h2 title="{file}">a.png</h2>' in made and ">test/7.png</h2>" in made
    assert '<th scope="col" class="left">Class and map</th>' in made
    assert not re.search(r"\d %", " ".join(re.findall(r'<p class="note">(.*?)</p>', made)))


def test_the_command(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    command = ["explain", "runs/pets/models/vim_test", "a.png", "b.jpg", "--steps", "2", "--seed", "3"]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--classes", "cat", "guinea pig"])
    assert not stop.value.code
    out = capsys.readouterr().out
    assert re.search(r"^a\.png: .* \(\d+\.\d %\), ", out, re.M) and "report: runs/explain-vim_test/report.html" in out
    made = folder / "runs/explain-vim_test"
    page = (made / "report.html").read_text("utf-8")
    for text in ("HiResCAM: cat", "Integrated gradients: guinea pig", "What the model looks for", "class token",
                 "Hidden attention of layers.1.mixer, 4 × 4", "Receptive field", "Does the map depend"):  # fmt: skip
        assert text in page, text
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page) and "<script" not in page  # nothing is fetched
    assert page.count("<img") == page.count('src="data:image/') >= 2 * 5 + 2
    with np.load(made / "maps.npz") as maps:
        kinds = {name.rpartition("-")[2] for name in maps.files}
        assert kinds == {"camera", "gradients", "pixels"} and maps["0-pixels"].ndim == 3
        shown = {name for name in maps.files if not name.endswith("pixels")}
    assert shown == {path.stem for path in (made / "maps").glob("*.png")}
    about = json.loads((made / "explain.json").read_text())
    assert about["pictures"][0]["classes"] == ["cat", "guinea pig"] and about["settings"]["search"]["seed"] == 3
    records = read_records(made / "records.jsonl")
    areas = [r for r in records if r.class_ == "a.png / cat / HiResCAM"]
    assert {r.metric for r in areas} == {"deletion_auc", "insertion_auc"} and all(0 <= r.value <= 1 for r in areas)
    assert {"probability", "receptive_field_50", "rank_correlation"} <= {r.metric for r in records}


def test_a_model_of_a_trial_is_called_so(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "runs/pets/models/resnet_test", tmp_path / "runs/trial/models/resnet_test")
    write_records(tmp_path / "runs/trial/records.jsonl", [Record(model="resnet_test", metric="accuracy", value=0.1)])
    (tmp_path / "runs/trial/run.json").write_text(json.dumps({"trial": True, "models": [{"label": "resnet_test"}]}))
    with pytest.raises(SystemExit) as stop:
        main(["explain", "runs/trial", str(folder / "a.png"), "--steps", "0", "--no-scores"])
    assert not stop.value.code
    shown, page = capsys.readouterr().out, (tmp_path / "runs/explain-trial/report.html").read_text("utf-8")
    for text in (shown, page):
        assert "comes from a trial run (--smoke): these pictures say little about a model that learned." in text
    assert open_model("resnet_test")[0].doubt == ""


def test_a_model_outside_of_its_run_is_judged_by_data(folder, tmp_path, monkeypatch, capsys):
    """A copied folder has no run that says whether the model learned: labelled data do, or one line asks for them."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "runs/pets/models/resnet_test", tmp_path / "copied")
    random = np.random.default_rng(1)
    for part, name in ((p, c) for p in ("train", "test") for c in CLASSES):
        (tmp_path / "data" / part / name).mkdir(parents=True)
        for i in range(4):
            picture = random.integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / "data" / part / name / f"{i}.png")
    quick = ["--steps", "0", "--no-scores", "--overwrite"]
    for arguments, said in (
        (
            ["copied", str(folder / "a.png")],
            "is better than chance, as it is not in its run's folder; --data DATA does",
        ),
        (["copied", "--data", "data"], "is at chance ("),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["explain", *arguments, *quick])
        assert not stop.value.code
        shown, made = capsys.readouterr().out, (tmp_path / "runs/explain-copied/report.html").read_text("utf-8")
        assert said in shown and said.replace("'", "&#x27;") in made
    assert "test/cat/0.png: " in shown and len(re.findall(r"^test/.*\.png: ", shown, re.M)) == 8
    shutil.move(tmp_path / "data/train/7", tmp_path / "data/train/8")
    shutil.move(tmp_path / "data/test/7", tmp_path / "data/test/8")
    with pytest.raises(SystemExit) as stop:
        main(["explain", "copied", "--data", "data", *quick])
    assert stop.value.code == 2
    assert "data has the classes 8, cat, dog, guinea pig, the model cat, dog, guinea pig, 7" in capsys.readouterr().err


def test_mistakes_are_one_line(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for arguments, said in (
        (["vim_test", "a.png", "--classes", "guacamol"], "did you mean guacamole"),
        (["nowhere", "a.png"], "there is no model 'nowhere'"),
        (["runs/pets/models/vim_test", "none.png"], "there is no picture to explain"),
        (["runs/pets/models/vim_test", "a.png", "--output", "a.png"], "a.png is a file"),
        (["runs/pets/models/vim_test", "a.png", "--output", "."], "files that are not an explanation;"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["explain", *arguments])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("ssmlab: ") and said in error


def test_an_option_with_several_values():
    assert spread(["m", "i", "--classes", "a", "b", "--seed", "1"], "--classes") == [
        "m", "i", "--classes", "a", "--classes", "b", "--seed", "1",
    ]  # fmt: skip
    assert spread(["m", "--classes", "--seed", "1"], "--classes") == ["m", "--classes", "--seed", "1"]
    assert spread(["m", "--classes"], "--classes") == ["m", "--classes"]
    assert spread(["m", "--classes=a", "i"], "--classes") == ["m", "--classes=a", "i"]


def test_pictures_of_maps(tmp_path):
    pixels = np.full((8, 8, 3), 100, np.uint8)
    map_ = np.zeros((8, 8), np.float32)
    map_[0, 0], map_[7, 7] = 2, -2
    shown = over(pixels, map_, signed=True).astype(int)
    assert shown[0, 0, 0] > shown[0, 0, 2] and shown[7, 7, 2] > shown[7, 7, 0] and len(set(shown[3, 3])) == 1
    assert (over(pixels, map_)[7, 7] == over(pixels, map_)[3, 3]).all()  # without signs nothing is blue
    assert np.isfinite(over(pixels, 0 * map_)).all() and np.isfinite(ramp(0 * map_)).all()
    assert ramp(map_)[0, 0].sum() > ramp(map_)[3, 3].sum() > ramp(map_)[7, 7].sum()
    framed = outlined(pixels, (1, 0), (2, 4))
    assert (framed[4, :2] == 255).all() and (framed[7, :2] == 255).all() and (framed[:4] == 100).all()
    assert enlarged(np.eye(2, dtype=np.float32), (4, 4))[:2, :2].tolist() == [[1, 1], [1, 1]]
    assert source(pixels).startswith("data:image/png;base64,")
    assert source(np.zeros((200, 200, 3), np.uint8)).startswith("data:image/jpeg;base64,")
