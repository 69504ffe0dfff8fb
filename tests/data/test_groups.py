import numpy as np
import pytest
from PIL import Image

from ssmlab.core.errors import DataError
from ssmlab.data import open_images
from ssmlab.data.masks.reader import open_masks


def problems(path, **options):
    with pytest.raises(DataError) as caught:
        open_images(path, **options)
    return caught.value.problems


def groups_csv(root, rows, name="groups.csv", header="file,patient"):
    (root / name).write_text("\n".join([header, *rows]) + "\n")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("parts", [True, False])
def test_groups_stay_on_one_side(make, tmp_path, parts, packed):
    counts = {"train/cat": 20, "train/dog": 20, "test/cat": 2, "test/dog": 2} if parts else {"cat": 25, "dog": 25}
    root = make.tree(tmp_path / "pets", counts)
    rows = [
        f"{folder}/{i}.png,{'T' if folder.startswith('test') else 'P'}{i // 4}"
        for folder, n in counts.items()
        for i in range(n)
    ]
    groups_csv(root, rows)
    path = make.pack(root, tmp_path / "x.zip", "top/") if packed else root
    data = open_images(path, group="patient")
    sides = [set(split.groups) for split in data.splits.values()]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert not sides[1] & sides[2]
    assert not sides[0] & sides[2]
    assert "images of one group stay together" in data.notes[-1]
    assert open_images(path).train.groups is None


def test_groups_beside_a_zip_and_by_bare_names(make, tmp_path):
    root = tmp_path / "pets"
    for number, name in enumerate(["train/a/1", "train/a/2", "train/b/3", "train/b/4", "test/a/5", "test/b/6"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.png").write_bytes(make.encode(make.draw(number)))
    make.pack(root, tmp_path / "pets.zip")
    groups_csv(tmp_path, [f"{i}.png;s{i}" for i in range(1, 7)], "metadata.csv", "File_Name;slide")
    data = open_images(tmp_path / "pets.zip", group="slide")
    assert sorted(data.train.groups + data.val.groups) == ["s1", "s2", "s3", "s4"]


def test_problems_of_the_groups(make, tmp_path):
    root = make.tree(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    assert "no groups.csv or metadata.csv with this column" in problems(root, group="patient")[0]
    groups_csv(root, ["train/a/0.png,p"], header="file,Patients")
    assert "did you mean 'Patients'" in problems(root, group="patient")[0]
    groups_csv(root, ["p,1"], header="patient,stay")
    assert "no column 'file'" in problems(root, group="patient")[0]
    groups_csv(root, ["nonsense.png,p"])
    assert "none of its files is an image here; write them like 'test/a/0.png'" in problems(root, group="patient")[0]
    groups_csv(
        root,
        [
            "train/a/0.png,p0",
            "train/a/1.png,",
            "train/a/2.png,p2,extra",
            "train/b/0.png,p3",
            "train/b/0.png,p4",
            "train/b/1.png,p4",
            "test/a/0.png,p4",
            "test/b/0.png,p5",
        ],
    )
    found = problems(root, group="patient")
    for expected in (
        "groups.csv, line 3: train/a/1.png has no patient",
        "groups.csv, line 4: 3 cells, expected 2",
        "groups.csv, line 6: train/b/0.png is in 'p3' and 'p4'",
        "train/a/2.png: has no row in groups.csv",
        "train/b/2.png: has no row in groups.csv",
        "group 'p4' is in test (test/a/0.png), train (train/b/1.png); move",
    ):
        assert any(expected in problem for problem in found), expected
    assert len(found) == 6


def test_a_bare_name_of_several_images_names_none(make, tmp_path):
    root = make.tree(tmp_path, {"train/a": 1, "train/b": 2, "test/a": 1, "test/b": 2})
    full = ["train/b/1.png,p", "test/b/1.png,q"]
    groups_csv(root, ["0.png,x", *full])
    without = [problem for problem in problems(root, group="patient") if "has no row in groups.csv" in problem]
    assert [problem.split(":")[0] for problem in without] == [
        "test/a/0.png",
        "test/b/0.png",
        "train/a/0.png",
        "train/b/0.png",
    ]


def test_groups_by_a_pattern_of_names(make, tmp_path):
    """Slices of a patient, "p1_0.png" and "p1_1.png", stay together without any table; of a table of labels too."""
    root = tmp_path / "pets"
    for label in ("cat", "dog"):
        for patient in range(5):
            for image in range(2):
                folder = root / label
                folder.mkdir(parents=True, exist_ok=True)
                shade = 20 * patient + image + 100 * (label == "dog")
                Image.new("RGB", (8, 8), (shade, shade, shade)).save(folder / f"{label}{patient}_{image}.png")
    data = open_images(root, group="([a-z]+[0-9]+)_")
    sides = [set(split.groups) for split in data.splits.values()]
    assert sorted(map(len, sides)) != [0, 0, 10] and sum(map(len, sides)) == len(set.union(*sides)) == 10
    for pattern, message in (
        ("(x[0-9]+)_", "20 of 20 files do not match it"),
        ("(cat", "no regular expression"),
        ("(?:cat)", "no brackets that hold the group"),
    ):
        assert message in problems(root, group=pattern)[0]
    flat = tmp_path / "flat"
    flat.mkdir()
    rows = ["file,label"]
    for file in sorted(root.rglob("*.png")):
        (flat / file.name).write_bytes(file.read_bytes())
        rows.append(f"{file.name},{file.parent.name}")
    (flat / "labels.csv").write_text("\n".join(rows) + "\n")
    assert {*open_images(flat, group="([a-z]+[0-9]+)_").train.groups} <= {
        f"{n}{i}" for n in ("cat", "dog") for i in range(5)
    }


def test_groups_of_masks(tmp_path):
    random = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for patient in range(6):
        for image in range(2):
            pixels = random.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"p{patient}_{image}.png")
            Image.fromarray((pixels[..., 0] > 99).astype(np.uint8)).save(tmp_path / "masks" / f"p{patient}_{image}.png")
    assert open_masks(tmp_path).train.groups is None
    data = open_masks(tmp_path, group="(p[0-9])_")
    sides = [set(split.groups) for split in (data.train, data.val, data.test)]
    assert all(sides) and sum(map(len, sides)) == len(set.union(*sides)) == 6
    assert data.train.folds is None
    (tmp_path / "groups.csv").write_text(
        "file,patient\n" + "".join(f"images/p{p}_{i}.png,x{p % 3}\n" for p in range(6) for i in range(2))
    )
    data = open_masks(tmp_path, group="patient")
    assert sorted(g for split in (data.train, data.val, data.test) for g in set(split.groups)) == ["x0", "x1", "x2"]
    with pytest.raises(DataError, match="1 problem"):
        open_masks(tmp_path, group="(q[0-9])_")
