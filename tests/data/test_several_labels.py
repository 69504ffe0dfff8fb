"""Images with several labels: ChestMNIST's arrays and tables of columns, divided, counted and checked."""

import numpy as np
import pytest

from ssmlab.core.errors import DataError
from ssmlab.data import check_images, open_images
from ssmlab.data.images.reader import strata


def chest(path, **changes):
    random = np.random.default_rng(0)
    found = {}
    for part, n in (("train", 40), ("val", 10), ("test", 10)):
        found[f"{part}_images"] = random.integers(0, 255, (n, 8, 8), np.uint8)
        found[f"{part}_labels"] = (random.random((n, 4)) < (0.5, 0.3, 0.2, 0.4)).astype(np.uint8)
    np.savez(path, **found | changes)
    return found | changes


def test_chestmnists_arrays(tmp_path):
    given = chest(tmp_path / "chest.npz")
    (tmp_path / "classes.txt").write_text("\n".join(["Mass", "Nodule", "Hernia", "Edema"]))
    data = open_images(tmp_path / "chest.npz")
    assert data.several and data.classes == ("Mass", "Nodule", "Hernia", "Edema")
    assert np.array_equal(data.train.labels, given["train_labels"])
    report = check_images(data)
    assert report.balance["test"] == dict(zip(data.classes, given["test_labels"].sum(0).tolist(), strict=True))
    labels = given["train_labels"].copy()
    labels[3, 1] = 2
    chest(tmp_path / "bad.npz", train_labels=labels)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError) as caught:
        open_images(tmp_path / "bad.npz")
    assert "train_labels: 2 among labels of 4 columns; each is 0 or 1" in caught.value.problems[0]


@pytest.mark.parametrize("form", ["columns", "cells"])
def test_tables(make, tmp_path, form):
    random = np.random.default_rng(1)
    wanted = {f"{i}.png": (random.random(3) < 0.5).astype(int) for i in range(40)}
    (tmp_path / "d").mkdir()
    names = ("edema", "mass", "nodule")
    rows = ["path,edema,mass,nodule" if form == "columns" else "path,Finding Labels"]
    for i, (name, own) in enumerate(wanted.items()):
        (tmp_path / "d" / name).write_bytes(make.encode(make.draw(i)))
        joined = "|".join(n for n, one in zip(names, own, strict=True) if one) or "No Finding"
        rows.append(f"{name},{','.join(map(str, own))}" if form == "columns" else f"{name},{joined}")
    (tmp_path / "d" / "labels.csv").write_text("\n".join(rows) + "\n")
    data = open_images(tmp_path / "d", labels="several")
    assert data.classes == names and data.several
    for split in data.splits.values():
        assert len(split) and all(
            np.array_equal(row, wanted[i]) for i, row in zip(split.ids, split.labels, strict=True)
        )
    if form == "columns":
        two = open_images(tmp_path / "d", labels="mass,edema")
        assert two.classes == ("mass", "edema")
    else:
        with pytest.raises(DataError, match="problem") as caught:
            open_images(tmp_path / "d")
        assert any("data.labels=several reads" in problem for problem in caught.value.problems)


def test_path_label_group_fold(make, tmp_path):
    rows = ["path,label,group,fold"]
    for i in range(24):
        (tmp_path / f"{i}.png").write_bytes(make.encode(make.draw(i)))
        rows.append(f"{i}.png,{'ab'[i % 2]},p{i // 2},{i // 2 % 4}")
    (tmp_path / "data.csv").write_text("\n".join(rows) + "\n")
    data = open_images(tmp_path, divide=False)
    assert len(data.test) == len(data.val) == 0 and len(data.train) == 24
    for split in (data.train, open_images(tmp_path).val):
        assert split.groups == [f"p{int(id_[:-4]) // 2}" for id_ in split.ids]
        assert split.folds == [str(int(id_[:-4]) // 2 % 4) for id_ in split.ids]


def test_images_are_divided_by_their_rarest_label():
    assert strata(["a|b", "a", "", "a|c", "b"]) == ["b", "a", "", "c", "b"]
