"""ImageNet's folders: class order, names, the flat validation part and the tables of its labels."""

import json

import numpy as np
import pytest
from scipy.io import savemat

from ssmlab.core.errors import DataError
from ssmlab.data import check_images, open_images

TENCH, CRANE, LIFT = "n01440764", "n02012849", "n03126707"  # the last two are both called crane
COUNTS = {f"train/{wnid}": 10 for wnid in (LIFT, TENCH, CRANE)}
FOLDERS = COUNTS | {f"val/{wnid}": 2 for wnid in (LIFT, TENCH, CRANE)}
MAPPING = f"{TENCH} tench, Tinca tinca\n{CRANE} crane\n{LIFT} crane\n"


def problems(path):
    with pytest.raises(DataError) as caught:
        open_images(path)
    return caught.value.problems or [str(caught.value)]


def flat(make, root, n=6):
    """train in folders, val flat: images 00000001 to 0000000n."""
    make.tree(root, COUNTS | {"val": 0})
    for i in range(n):
        (root / "val" / f"ILSVRC2012_val_{i + 1:08d}.JPEG").write_bytes(make.encode(make.draw(100 + i), "JPEG"))
    return root


def solution(root, wnids, name="LOC_val_solution.csv"):
    lines = [f"ILSVRC2012_val_{i + 1:08d},{wnid} 1 2 3 4 {wnid} 5 6 7 8\n" for i, wnid in enumerate(wnids)]
    (root / name).write_text("ImageId,PredictionString\n" + "".join(reversed(lines)))


def test_classes_are_sorted_wnids_and_val_is_the_test(make, tmp_path):
    data = open_images(make.tree(tmp_path / "imagenet", FOLDERS))
    assert (data.format, data.classes) == ("imagenet", (TENCH, CRANE, LIFT))
    assert [len(split) for split in data.splits.values()] == [27, 3, 6]
    assert data.test.ids[0] == f"val/{TENCH}/0.png" and np.bincount(data.test.labels).tolist() == [2, 2, 2]
    assert data.notes[0] == "val is the test part: the labels of ImageNet's test are not public"
    assert "classes are called by their wnid" in data.notes[1]


def test_a_test_with_labels_stays_the_test(make, tmp_path):
    data = open_images(make.tree(tmp_path, FOLDERS | {f"test/{wnid}": 1 for wnid in (TENCH, CRANE, LIFT)}))
    assert [len(split) for split in data.splits.values()] == [30, 6, 3]


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ("LOC_synset_mapping.txt", MAPPING),
        ("synset_words.txt", MAPPING),
        ("words.txt", "n00001740\tentity\n" + MAPPING.replace(" ", "\t", 1)),
        (
            "imagenet_class_index.json",
            json.dumps({"0": [TENCH, "tench"], "1": [CRANE, "crane"], "2": [LIFT, "crane"], "3": ["n02000000", "x_y"]}),
        ),
    ],
)
def test_names_from_an_index(make, tmp_path, index, text):
    root = make.tree(tmp_path, FOLDERS)
    (root / index).write_text(text)
    data = open_images(root)
    assert data.classes == ("tench", f"crane ({CRANE})", f"crane ({LIFT})")
    assert np.bincount(data.test.labels).tolist() == [2, 2, 2]
    assert data.split_hash == open_images(make.tree(tmp_path / "again", FOLDERS)).split_hash


def test_an_index_that_lacks_names_or_is_damaged(make, tmp_path):
    root = make.tree(tmp_path, FOLDERS)
    (root / "words.txt").write_text(f"{TENCH} great_white_shark\n")
    data = open_images(root)
    assert data.classes == ("great_white_shark", CRANE, LIFT)
    assert f"words.txt lacks a name for {CRANE}, {LIFT}" in data.notes
    for text in ('{"0": [', '["n01440764"]', '{"0": 5}'):
        (root / "imagenet_class_index.json").write_text(text)
        assert problems(root)[0].startswith("imagenet_class_index.json: cannot be read")
    (root / "imagenet_class_index.json").write_bytes(b"\xff\xfe")
    assert problems(root)[0].startswith("imagenet_class_index.json: cannot be read")


def test_the_layout_of_the_competition(make, tmp_path):
    top = tmp_path / "ILSVRC"
    root = flat(make, top / "Data" / "CLS-LOC")
    (root / "test").mkdir()
    (root / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(make.encode(make.draw(500), "JPEG"))
    for wnid in (TENCH, CRANE):
        (top / "Annotations" / "CLS-LOC" / "train" / wnid).mkdir(parents=True)
        (top / "Annotations" / "CLS-LOC" / "train" / wnid / "a.xml").write_text("<a/>")
    (tmp_path / "LOC_synset_mapping.txt").write_text(MAPPING)
    solution(tmp_path, [LIFT, TENCH, TENCH, CRANE, CRANE, LIFT])
    data = open_images(tmp_path)
    assert data.classes[0] == "tench" and data.test.labels.tolist() == [2, 0, 0, 1, 1, 2]
    assert data.test.ids[0] == "val/ILSVRC2012_val_00000001.JPEG"
    assert any("1 image outside of class folders (test/ILSVRC2012_test" in note for note in data.notes)
    assert check_images(data).ok
    packed = open_images(make.pack(tmp_path, tmp_path / "all.zip"))
    assert (packed.split_hash, packed.format) == (data.split_hash, "imagenet")


def test_tiny_imagenet(make, tmp_path):
    counts = {f"train/{wnid}/images": 5 for wnid in (TENCH, CRANE)} | {"val/images": 4, "test/images": 2}
    root = make.tree(tmp_path, counts)
    rows = [f"{i}.png\t{wnid}\t0\t0\t9\t9\n" for i, wnid in enumerate([CRANE, TENCH, CRANE, TENCH])]
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "words.txt").write_text(f"{TENCH}\ttench, Tinca tinca\n{CRANE}\tcrane\n")
    data = open_images(root)
    assert data.classes == ("tench", "crane") and data.test.labels.tolist() == [1, 0, 1, 0]
    assert data.test.ids[0] == "val/images/0.png"


def kit(path, wnids):
    """meta.mat: ILSVRC2012_IDs in the order of `wnids`, and one inner node."""
    rows = [(i + 1, wnid, "words", "gloss", 0) for i, wnid in enumerate(wnids)] + [(9, "n00000009", "inner", "", 3)]
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    savemat(path, {"synsets": np.array(rows, dtype=kinds).reshape(-1, 1)})


def test_the_ground_truth_of_the_development_kit(make, tmp_path):
    root = flat(make, tmp_path)
    (root / "devkit" / "data").mkdir(parents=True)
    truth = root / "devkit" / "data" / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n2\n3\n3\n2\n1\n")
    assert "holds ILSVRC2012_IDs, which are not in the order of the wnids; put meta.mat" in problems(root)[0]
    kit(truth.parent / "meta.mat", [LIFT, TENCH, CRANE])
    assert open_images(root).test.labels.tolist() == [2, 0, 1, 1, 0, 2]
    truth.write_text("1\n2\n3\n3\n2\n9\n")
    assert "1 label out of range (9 in line 6); meta.mat has 1 to 3" in problems(root)[0]
    truth.write_text("1\n2\n3\n")
    assert "3 labels for 6 images; they must be as many" in problems(root)[0]
    truth.write_text("\n".join([CRANE, TENCH, LIFT] * 2))
    assert open_images(root).test.labels.tolist() == [1, 0, 2] * 2
    (truth.parent / "meta.mat").write_bytes(b"MATLAB 5.0 and then nothing")
    truth.write_text("1\n2\n3\n3\n2\n1\n")
    assert "meta.mat: cannot be read" in problems(root)[0]


def test_a_flat_val_without_a_table(make, tmp_path):
    root = flat(make, tmp_path)
    assert problems(root)[0].startswith("val/: 6 images outside of class folders; put LOC_val_solution.csv, or ILSVRC")


def test_tables_that_disagree_with_the_images(make, tmp_path):
    root = flat(make, tmp_path)
    solution(root, [LIFT, "cat", TENCH, CRANE, CRANE, LIFT, TENCH])
    (root / "val" / "ILSVRC2012_val_00000099.JPEG").write_bytes(make.encode(make.draw(99), "JPEG"))
    found = problems(root)
    for start in (
        "LOC_val_solution.csv: no label for 1 image (val/ILSVRC2012_val_00000099.JPEG)",
        "LOC_val_solution.csv: no wnid in 1 row ('cat' for ILSVRC2012_val_00000002)",
        "val/: 1 image of LOC_val_solution.csv missing (ILSVRC2012_val_00000007)",
    ):
        assert sum(problem.startswith(start) for problem in found) == 1, (start, found)
    solution(root, ["n09999999"] * 6)
    assert any("class 'n09999999': no images in train (6 in test)" in problem for problem in problems(root))
    (root / "LOC_val_solution.csv").write_text("a,b\n1,2\n")
    assert any("no columns ImageId and PredictionString among a, b" in problem for problem in problems(root))


def test_empty_and_damaged_classes(make, tmp_path):
    root = make.tree(tmp_path, FOLDERS | {"train/n09999999": 0})
    (root / "train" / CRANE / "0.png").write_bytes(b"x")
    found = problems(root)
    assert any("train/n09999999/: no images in this class folder" in problem for problem in found)
    assert any(f"train/{CRANE}/0.png: cannot be read" in problem for problem in found)


def test_class_folders_of_other_names_are_not_imagenet(make, tmp_path):
    root = make.tree(tmp_path / "a", {"cat": 4, TENCH: 4})
    assert open_images(root).format == "class_folders"
    only = open_images(make.tree(tmp_path / "b", {CRANE: 10, TENCH: 10}))
    assert only.format == "imagenet" and [len(s) for s in only.splits.values()] == [14, 2, 4]


def test_two_sets_in_one_folder(make, tmp_path):
    for name in ("one", "two"):
        make.tree(tmp_path / name, FOLDERS)
    assert any("has parts of its own" in problem for problem in problems(tmp_path))
