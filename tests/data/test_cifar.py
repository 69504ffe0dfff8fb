"""CIFAR-10 and CIFAR-100 in their original files, unpacked and packed, whole and damaged."""

import gzip
import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from typer.testing import CliRunner

from ssmlab.cli.data import app
from ssmlab.core.errors import DataError
from ssmlab.data import check_images, open_images
from ssmlab.data.images import cifar

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write(path, table):
    """As numpy 1 named its functions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(table, 2).replace(b"cnumpy._core.", b"cnumpy.core."))


def rows(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)


def cifar10(root, n=20):
    for number in range(1, 6):
        table = {"batch_label": f"training batch {number} of 5", "labels": [i % 10 for i in range(n)]}
        write(
            root / f"data_batch_{number}",
            {**table, "data": rows(n, number), "filenames": [f"{i}.png" for i in range(n)]},
        )
    write(root / "test_batch", {"labels": [i % 10 for i in range(n)], "data": rows(n, 6)})
    write(root / "batches.meta", {"num_cases_per_batch": n, "label_names": list(NAMES), "num_vis": 3072})
    return root


def cifar100(root, n=200):
    for file, seed in (("train", 1), ("test", 2)):
        fine = [i % 100 for i in range(n)]
        write(root / file, {"data": rows(n, seed), "fine_labels": fine, "coarse_labels": [i // 5 for i in fine]})
    meta = {"fine_label_names": [f"fine {i:02d}" for i in range(100)]}
    write(root / "meta", {**meta, "coarse_label_names": [f"coarse {i:02d}" for i in range(20)]})
    return root


def pack(folder, target, mode="w:gz", top="cifar-10-batches-py"):
    with tarfile.open(target, mode) as archive:
        archive.add(folder, top)
    return target


def problems(path, **options):
    with pytest.raises(DataError) as caught:
        open_images(path, **options)
    return caught.value.problems or [str(caught.value)]


def test_cifar10(tmp_path):
    data = open_images(cifar10(tmp_path / "cifar-10-batches-py"))
    assert (data.name, data.format, data.classes) == ("cifar-10-batches-py", "cifar10", NAMES)
    assert [len(split) for split in data.splits.values()] == [90, 10, 20]
    assert data.test.ids[7] == "test_batch/7" and data.test.labels[7] == 7
    assert {name.split("/")[0] for name in data.train.ids} == {f"data_batch_{n}" for n in range(1, 6)}
    assert len(data.notes) == 1 and "no val part was published" in data.notes[0]
    pixels = data.test.array(32)
    assert np.array_equal(pixels, rows(20, 6).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    report = check_images(data)
    assert report.ok and report.sizes["width"] == (32, 32.0, 32) and report.notes == data.notes


def test_cifar100_has_two_sets_of_labels(tmp_path):
    root = cifar100(tmp_path / "cifar-100-python")
    fine, coarse = open_images(root), open_images(root, labels="coarse")
    assert fine.format == "cifar100" and len(fine.classes) == 100 and len(coarse.classes) == 20
    assert fine.classes[:2] == ("fine 00", "fine 01") and coarse.classes[19] == "coarse 19"
    assert np.array_equal(fine.test.labels // 5, coarse.test.labels)
    assert fine.notes[0] == "fine labels, 100 classes; labels=coarse takes the others"
    assert coarse.notes[0] == "coarse labels, 20 classes; labels=fine takes the others"
    with pytest.raises(DataError, match=r"labels='course': expected fine or coarse$"):
        open_images(root, labels="course")
    with pytest.raises(
        DataError, match=r"digits: labels='coarse' is for CIFAR-100 or tables of labels, this is digits; leave it out$"
    ):
        open_images(labels="coarse")


@pytest.mark.parametrize(("mode", "name"), [("w:gz", "cifar.tar.gz"), ("w", "download"), ("w:gz", "x/cifar.tgz")])
def test_the_archive_equals_the_folder(tmp_path, mode, name):
    folder = cifar10(tmp_path / "unpacked")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    path = pack(folder, tmp_path / name, mode)
    packed = open_images(path if "/" not in name else path.parent)
    assert packed.format == "cifar10" and packed.name == "cifar-10-batches-py"
    assert packed.split_hash == open_images(folder).split_hash
    assert np.array_equal(packed.val.array(16), open_images(folder).val.array(16))


def test_a_zip_and_a_folder_around_it(make, tmp_path):
    folder = cifar100(tmp_path / "home" / "cifar-100-python")
    around = open_images(tmp_path / "home")
    assert around.split_hash == open_images(folder).split_hash
    assert open_images(make.pack(tmp_path / "home", tmp_path / "c.zip")).split_hash == around.split_hash
    cifar10(tmp_path / "home" / "cifar-10-batches-py")
    assert "several data sets (cifar-10-batches-py/, cifar-100-python/)" in problems(tmp_path / "home")[0]


def test_words_in_class_folders_are_no_cifar(make, tmp_path):
    root = make.tree(tmp_path, {"train/a": 4, "train/b": 4, "test/a": 1, "test/b": 1})
    for name in ("meta", "train.txt", "test/meta"):
        (root / name).write_text("x")
    assert open_images(root).format == "class_folders"


def test_everything_wrong_is_told_at_once_by_file(tmp_path):
    root = cifar10(tmp_path)
    good = {"labels": [0] * 4, "data": rows(4, 0)}
    write(root / "data_batch_1", {**good, "labels": [0, 1, 12, -1]})
    write(root / "data_batch_2", {**good, "data": rows(4, 0)[:, :3071]})
    write(root / "data_batch_3", {**good, "data": rows(4, 0).astype(np.int16), "labels": [0] * 5})
    write(root / "data_batch_4", {"labels": [0] * 4, "date": 1})
    (root / "data_batch_5").write_bytes((root / "data_batch_5").read_bytes()[:5000])
    os.remove(root / "test_batch")
    found = problems(root)
    expected = (
        "data_batch_1: 2 labels out of range (12 in row 2); batches.meta has the classes 0 to 9",
        "data_batch_2: data of (4, 3071) uint8; expected (n, 3072) uint8",
        "data_batch_3: data of (4, 3072) int16; expected",
        "data_batch_3: 5 labels for 4 images",
        "data_batch_4: no array 'data' among date, labels",
        "data_batch_5: no pickle that can be read",
        "test_batch: missing",
    )
    assert len(found) == len(expected)
    for problem, start in zip(found, expected):
        assert problem.startswith(start) and problem.endswith("; download the data set again")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"fine_labels": ["1"] * 200}, "train: no list 'fine_labels' of whole numbers among coarse_labels, data"),
        (
            {"fine_labels": np.arange(200) % 101},
            "train: 1 label out of range (100 in row 100); meta has the classes 0 to 99",
        ),
        ({"fine_labels": np.arange(200) % 100}, None),
        ({"data": rows(199, 0)}, "train: 200 fine_labels for 199 images"),
    ],
)
def test_tables_of_cifar100(tmp_path, change, expected):
    root = cifar100(tmp_path)
    table = {"data": rows(200, 0), "fine_labels": [i % 100 for i in range(200)], "coarse_labels": [0] * 200}
    write(root / "train", table | change)
    if expected is None:
        assert np.bincount(open_images(root).test.labels).tolist() == [2] * 100
    else:
        assert problems(root)[0].startswith(expected)


def test_names_of_the_classes(tmp_path):
    root = cifar10(tmp_path)
    write(root / "batches.meta", {"label_names": ["cat", "cat"]})
    assert problems(root) == ["batches.meta: two classes are called 'cat'; download the data set again"]
    write(root / "batches.meta", {"label_names": "cat"})
    assert problems(root)[0].startswith("batches.meta: no list label_names of names among label_names")
    write(root / "batches.meta", {"label_names": [name.encode() for name in NAMES], "num_cases_per_batch": 10_000})
    data = open_images(root)
    assert data.classes == NAMES
    assert data.notes[0].startswith("batches.meta announces 10,000 images a file: data_batch_1 20, data_batch_2 20")


def test_groups(tmp_path):
    root = cifar10(tmp_path, n=10)
    ids = [f"{file}/{i}" for file in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch") for i in range(10)]
    (root / "groups.csv").write_text("file,who\n" + "".join(f"{name},{name.split('/')[0]}\n" for name in ids))
    data = open_images(root, group="who")
    assert len(data.val) == 10 and len(set(data.val.groups)) == 1


class Calls:
    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


def test_a_malicious_pickle_is_refused_by_name_in_every_container(make, tmp_path):
    root = cifar10(tmp_path / "c")
    write(root / "data_batch_3", {"data": rows(4, 0), "labels": [0] * 4, "filenames": Calls()})
    for path in (root, pack(root, tmp_path / "c.tar.gz"), make.pack(root, tmp_path / "c.zip")):
        (found,) = problems(path)
        assert found.startswith(f"data_batch_3: refused: asks for {os.name}.system, ") and "nothing was run" in found
        result = CliRunner().invoke(app, ["check", str(path), "--json"])
        assert result.exit_code == 2 and json.loads(result.output)["problems"] == [found]


def test_archives_that_lie(tmp_path, monkeypatch):
    folder = cifar10(tmp_path / "c")
    whole = pack(folder, tmp_path / "c.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert "cut.tar.gz: the archive cannot be read" in problems(tmp_path / "cut.tar.gz")[0]
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"no tar at all" * 100))
    assert "text.gz: not a data set in a known format" in problems(tmp_path / "text.gz")[0]
    (tmp_path / "no.tar.gz").write_bytes(b"\x1f\x8bgarbage")
    assert "no.tar.gz: the archive cannot be read" in problems(tmp_path / "no.tar.gz")[0]
    monkeypatch.setattr(cifar, "BOMB_BYTES", 1 << 16)
    assert "more than 65,536 bytes unpacked" in problems(tmp_path / "c.tar.gz")[0]
    monkeypatch.setattr(cifar, "MAX_MEMBERS", 2)
    monkeypatch.setattr(cifar, "BOMB_BYTES", 1 << 30)
    assert "more than 2 files" in problems(tmp_path / "c.tar.gz")[0]


def test_nothing_of_an_archive_is_written_and_links_are_passed_over(tmp_path):
    folder = cifar10(tmp_path / "c")
    home = tmp_path / "home"
    home.mkdir()
    with tarfile.open(home / "c.tar.gz", "w:gz") as archive:
        for name in sorted(os.listdir(folder)):
            archive.add(folder / name, f"../../evil/{name}")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("../../evil/data_batch_1")
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
        info = tarfile.TarInfo("/etc/owned")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"bad"))
    before = sorted(path for path in tmp_path.rglob("*"))
    data = open_images(home / "c.tar.gz")
    assert len(data.test.array(8)) == 20 and data.split_hash == open_images(folder).split_hash
    assert sorted(path for path in tmp_path.rglob("*")) == before and not os.path.exists("/etc/owned")
