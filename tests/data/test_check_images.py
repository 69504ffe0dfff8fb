import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ssmlab.cli.data import app
from ssmlab.core.errors import DataError
from ssmlab.data import check_images, open_images

COUNTS = {"train/cat": 20, "train/dog": 30, "test/cat": 4, "test/dog": 6}


def run(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)], env={"COLUMNS": "200"})


def test_counts_balance_and_sizes(make, tmp_path):
    root = make.tree(tmp_path, COUNTS)
    (root / "train/dog/0.png").write_bytes(make.encode(make.draw(700, (40, 10))))
    (root / "train/dog/1.png").write_bytes(make.encode(make.draw(701, (12, 7))))
    steps = []
    report = check_images(open_images(root), progress=lambda done, total: steps.append((done, total)))
    assert report.ok
    assert report.format == "class_folders"
    assert report.counts == {"train": 45, "val": 5, "test": 10}
    assert report.balance == {
        "train": {"cat": 18, "dog": 27},
        "val": {"cat": 2, "dog": 3},
        "test": {"cat": 4, "dog": 6},
    }
    assert report.sizes == {"width": (12, 12.0, 40), "height": (7, 10.0, 10)}
    assert steps[-1] == (60, 60)
    assert report.duplicates == report.label_conflicts == report.warnings == []
    assert report.unreadable == {}


def test_duplicates_and_conflicts_by_pixels(make, tmp_path):
    root = make.tree(tmp_path, COUNTS)
    image = make.draw(700)
    (root / "test/cat/0.png").write_bytes(make.encode(image))
    (root / "train/cat/0.png").write_bytes(make.encode(image, compress_level=0))  # other bytes, same pixels
    (root / "train/cat/1.bmp").write_bytes(make.encode(image, "BMP"))
    (root / "train/dog/5.png").write_bytes(make.encode(make.draw(701)))
    (root / "train/cat/5.png").write_bytes(make.encode(make.draw(701)))
    report = check_images(open_images(root))
    assert [sorted(group)[0] for group in report.duplicates] == [("test", "test/cat/0.png")]
    assert report.copies == {"test": {"exact": 1, "near": 0, "of": report.counts["test"]}}
    assert {name for _, name in report.duplicates[0]} == {
        "test/cat/0.png",
        "train/cat/0.png",
        "train/cat/1.bmp",
    }
    assert [{(label, name) for label, _, name in group} for group in report.label_conflicts] == [
        {("cat", "train/cat/5.png"), ("dog", "train/dog/5.png")}
    ]
    assert len(report.warnings) == 2
    assert report.ok


def test_the_shape_belongs_to_the_picture(make, tmp_path):
    root = make.tree(tmp_path, COUNTS)
    for name, size in (("train/cat/0.png", (4, 9)), ("test/cat/0.png", (6, 6))):
        (root / name).write_bytes(make.encode(Image.new("RGB", size)))
    assert check_images(open_images(root)).duplicates == []


def test_problems_raise_or_are_collected(make, tmp_path):
    root = make.tree(tmp_path, {**COUNTS, "test/yak": 1})
    (root / "train/dog/3.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        check_images(open_images(root, strict=False))
    report = check_images(open_images(root, strict=False), strict=False)
    assert report.problems == caught.value.problems
    assert len(report.problems) == 2
    assert report.unreadable == {"train/dog/3.png": "the file is empty"}
    assert not report.ok


def test_twelve_bits_in_sixteen_are_a_warning(make, tmp_path):
    root = make.tree(tmp_path, COUNTS)
    for name, top in (("train/cat/0.png", 4000), ("train/cat/1.png", 65000)):
        pixels = np.random.default_rng(0).integers(0, top, (8, 8)).astype(np.uint16)
        (root / name).write_bytes(make.encode(Image.fromarray(pixels)))
    (warning,) = check_images(open_images(root)).warnings
    assert warning.startswith("1 image of 16 bits below a sixteenth")
    assert "train/cat/0.png" in warning


def test_the_command_prints_a_table(make, tmp_path):
    result = run(make.tree(tmp_path / "[red]pets", COUNTS))
    assert result.exit_code == 0, result.output
    for text in (
        "[red]pets",
        "class_folders",
        "cat",
        "18   40.0%",
        "12 to 12 pixels, median 12",
        "All images can be read",
    ):
        assert text in result.output
    assert open_images(tmp_path / "[red]pets").split_hash in result.output


def test_the_command_fails_with_all_problems(make, tmp_path):
    root = make.tree(tmp_path, {**COUNTS, "train/owl": 0})
    for i in range(25):
        (root / f"train/dog/{i}.png").write_bytes(b"[/bold]")
    result = run(root)
    assert result.exit_code == 2
    assert "train/owl/: no images in this class folder" in result.output
    assert "Problems (27)" in result.output
    assert "and 7 more (all with --json)" in result.output
    answer = json.loads(run(root, "--json").output)
    assert len(answer["problems"]) == 27
    assert len(answer["unreadable"]) == 25
    assert answer["ok"] is False


def test_json_has_everything(make, tmp_path):
    root = make.tree(tmp_path, COUNTS)
    result = run(root, "--json", "--seed", "3", "--val-fraction", "0.2")
    answer = json.loads(result.output)
    assert result.exit_code == 0
    assert answer["ok"] is True
    assert answer["counts"] == {"train": 40, "val": 10, "test": 10}
    assert answer["split_hash"] == open_images(root, seed=3, val_fraction=0.2).split_hash
    assert set(answer) >= {
        "format",
        "balance",
        "sizes",
        "unreadable",
        "duplicates",
        "label_conflicts",
        "warnings",
        "notes",
    }


def test_the_command_with_groups(make, tmp_path):
    triples = [
        {"Image Name": f"{c}{p}{i}.png", "Majority Vote Label": c, "Partition": p, "Patient": f"{p}{i // 2}"}
        for c in ("HP", "SSA")
        for p in ("train", "test")
        for i in range(8)
    ]
    root = make.mhist(tmp_path, triples, ("Image Name", "Majority Vote Label", "Partition", "Patient"))
    assert "images of one group stay together" in run(root, "--group", "Patient").output
    assert run(root, "--group", "Nobody").exit_code == 2


def test_the_command_says_what_it_cannot_open(tmp_path):
    result = run(tmp_path / "nowhere")
    assert result.exit_code == 2
    line = result.output
    assert line.startswith("ssmlab: ") and "no such file or folder; expected class folders" in line
    masks = run(tmp_path / "nowhere", "--masks").output
    assert masks.startswith("ssmlab: ") and "no such file or folder; expected folders of images and of masks" in masks
    assert line.count("\n") == masks.count("\n") == 1
    answer = json.loads(run(tmp_path / "nowhere", "--json").output)
    assert answer["ok"] is False
    assert "no such file" in answer["problems"][0]


def test_the_default_is_the_digits():
    result = run()
    assert result.exit_code == 0
    assert "1,259" in result.output


def test_images_that_look_nearly_alike_in_two_parts_are_a_note(make, tmp_path):
    def drawn(seed):
        rng = np.random.default_rng(seed)
        small = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        return small.resize((90, 80), Image.Resampling.BICUBIC)

    for part, first in (("train", 0), ("test", 100)):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(6):
                drawn(first + 50 * (label == "dog") + i).save(tmp_path / part / label / f"{i}.png")
    assert not any("nearly" in note for note in check_images(open_images(tmp_path)).notes)
    drawn(0).resize((60, 50)).save(tmp_path / "test/cat/copy.jpg", quality=60)
    drawn(1).save(tmp_path / "test/cat/equal.png")
    for part in ("train", "test"):
        Image.new("RGB", (50, 50), (9 if part == "test" else 200,) * 3).save(tmp_path / part / "dog/blank.png")
    report = check_images(open_images(tmp_path))
    (note,) = (note for note in report.notes if "nearly" in note)
    assert note.startswith(
        "1 of 15 test images look nearly like one in train or val (test: test/cat/copy.jpg and train: "
    )
    assert report.ok and report.copies == {"test": {"exact": 1, "near": 0, "of": 15}}
