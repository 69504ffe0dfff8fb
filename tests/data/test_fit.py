"""How pictures that are not square become square, and that everything that reads them does the same."""

import json

import numpy as np
import pytest
from PIL import Image

from ssmlab.core.progress import Progress
from ssmlab.data import check_images, open_images
from ssmlab.data.images.decode import fit_square
from ssmlab.data.images.fitting import about_fit


class Lines(Progress):
    """What was said."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def stripes(width=40, height=10):
    """Red, then green, then blue from left to right, a quarter, a half and a quarter of the width."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 4, 0] = pixels[:, width // 4 : -width // 4, 1] = pixels[:, -width // 4 :, 2] = 200
    return Image.fromarray(pixels)


def test_the_three_ways_to_a_square():
    image = stripes()
    crop, pad, stretch = (np.asarray(fit_square(image, 20, fit)) for fit in ("crop", "pad", "stretch"))
    assert np.array_equal(crop, np.asarray(fit_square(image, 20))), "the default"
    assert crop[..., 1].min() == 200 and crop[..., 0].max() == 0, "the middle half alone"
    assert pad.shape == (20, 20, 3) and not pad[:7].any() and not pad[13:].any() and pad[8:12].any(-1).all()
    assert pad[10, 2].tolist() == [200, 0, 0] and pad[10, 17].tolist() == [0, 0, 200]
    assert stretch[0, 2].tolist() == [200, 0, 0] and stretch[19, 17].tolist() == [0, 0, 200] and stretch.any(-1).all()
    upright = np.asarray(fit_square(stripes().rotate(90, expand=True), 20, "pad"))
    assert not upright[:, :7].any() and upright[:, 8:12].any(-1).all()
    square = Image.new("RGB", (20, 20), "white")
    assert all(fit_square(square, 20, fit) is square for fit in ("crop", "pad", "stretch"))
    with pytest.raises(ValueError, match="fit='fill': expected crop, pad, stretch"):
        fit_square(image, 20, "fill")


def test_what_is_lost_is_said():
    sizes = [("a", (100, 100)), ("b", (100, 95)), ("wide", (400, 100))]
    assert about_fit(sizes, "crop") == (
        "the middle square is taken (data.fit=crop), which cuts off 5.0% in the median, 75.0% at most (wide, "
        "400 x 100) of the pixels; 1 image of 3 loses more than 10%; data.fit=pad or data.fit=stretch keeps them whole"
    )
    assert "0 images of 2 lose more than 10%" in about_fit(sizes[:2], "crop")
    assert about_fit(sizes[:1], "crop") == about_fit([("c", (300, 299))], "crop") == about_fit([], "pad") == ""
    padded = about_fit(sizes, "pad")
    assert padded.endswith("padded with black, 5.0% in the median, 75.0% at most (wide, 400 x 100) of the square")
    assert "by 1.05 in the median, at most by 4.00 (wide, 400 x 100)" in about_fit(sizes, "stretch")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """What tells the classes apart lies at the left edge, which a crop cuts off."""
    root = tmp_path_factory.mktemp("wide")
    for label, value in (("dark", 20), ("light", 230)):
        (root / label).mkdir()
        for i in range(12):
            pixels = np.random.default_rng(i + value).integers(90, 120, (16, 64, 3), dtype=np.uint8)
            pixels[:, :16] = value
            Image.fromarray(pixels).save(root / label / f"{i}.png")
    return root


def test_the_check_tells_it(wide):
    from typer.testing import CliRunner

    from ssmlab.cli.data import app

    assert "24 images of 24 lose more than 10%" in CliRunner().invoke(app, ["check", str(wide)]).output
    report = check_images(open_images(wide), fit="pad")
    assert "padded with black" in report.shapes and "crop" not in report.shapes


@pytest.mark.slow
@pytest.mark.parametrize("fit", [None, "stretch"])
def test_a_run_and_all_that_reads_its_model_fit_alike(wide, tmp_path, fit):
    from ssmlab.experiments.run import run_recipe
    from ssmlab.studies.compare.comparison import Options, compare
    from ssmlab.studies.explain.opening import open_model, read_pictures
    from ssmlab.tasks.classify.predict import Classifier
    from ssmlab.tasks.recipe import load_recipe

    changes = [
        f"data.path={wide}",
        "data.image_size=32",
        "name=wide",
        "seeds=[0]",
        "training.epochs=2",
        "training.min_steps=40",
        "training.batch_size=8",
        "training.augment={}",
        "models=[{name='resnet_test'}]",
        *([f"data.fit={fit}"] if fit else []),
    ]
    recipe = load_recipe("classification/own_folder", changes)
    shown = Lines()
    folder = run_recipe(recipe, output=tmp_path, progress=shown)
    assert sum("cuts off 75.0%" in line for line in shown.lines) == (not fit), "said once"
    model = folder / "models" / "resnet_test"
    assert json.loads((model / "preprocess.json").read_text())["fit"] == (fit or "crop")
    notes = " ".join(json.loads((folder / "run.json").read_text())["data"]["notes"])
    assert ("are stretched" in notes) == bool(fit) and ("cuts off 75.0%" in notes) == (not fit)
    files = sorted(wide.rglob("*.png"))
    ((found, problems),) = Classifier(model).classify(files)
    right = np.mean([file.parent.name == row.ranking(("dark", "light"))[0][0]
                     for file, row in zip(files, found, strict=True)])  # fmt: skip
    assert not problems and (right > 0.95 if fit else True)
    Image.open(files[0]).save(tmp_path / "two.gif", save_all=True, append_images=[Image.open(files[1])])
    classifier = Classifier(model)
    list(classifier.classify([files[0], tmp_path / "two.gif"]))
    assert classifier.notes == [f"{tmp_path / 'two.gif'}: of its 2 frames or pages only the first is used"]
    opened = open_model(str(model), device="cpu")[0]
    _, pictures, _ = read_pictures(files[:1], 32, opened.fit)
    assert np.array_equal(pictures[0], fit_square(Image.open(files[0]), 32, fit or "crop"))
    options = Options(data=str(wide), batch=4, repeats=1, train=False, output=tmp_path / "c")
    accuracy = [r.value for r in compare([str(model)], options).records if r.metric == "accuracy"]
    tested = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert accuracy == [
        r["value"] for r in tested if r["metric"] == "accuracy" and r["split"] == "test" and not r["step"]
    ]
