"""Images with masks: pairing, values, layouts, parts, and everything that can be wrong, told at once."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ssmlab.core.errors import DataError
from ssmlab.data.masks.reader import has_masks, open_masks
from ssmlab.data.masks.values import IGNORE, decide, seen


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def picture(number, size=(12, 16), channels=3):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (*size, channels) if channels > 1 else size, dtype=np.uint8)


def blocks(number, size=(12, 16), value=255):
    mask = np.zeros(size, np.uint8)
    mask[: 3 + number % 5, :7] = value
    return mask


def folders(root, count=10, images="images", masks="masks", suffix="", value=255):
    for i in range(count):
        save(root / images / f"tile{i}.png", picture(i))
        save(root / masks / f"tile{i}{suffix}.png", blocks(i, value=value))
    return root


@pytest.mark.parametrize(
    ("images", "masks", "suffix"),
    [
        ("images", "groundtruth", ""),
        ("image", "label", "_label"),
        ("training/images", "training/1st_manual", "_manual1"),
        (".", ".", "_mask"),
        ("Images", "Ground_Truth", "_seg"),
        ("Original", "Ground Truth", ""),
        ("train_images", "train-masks", ""),
        ("train", "train_masks", "_mask"),
    ],
)
def test_pairs_are_found(tmp_path, images, masks, suffix):
    data = open_masks(folders(tmp_path, images=images, masks=masks, suffix=suffix))
    assert (len(data.train), len(data.val), len(data.test)) == (7, 1, 2)
    assert data.classes == ("background", "foreground") and (data.channels, data.dimensions) == (3, 2)
    sample = data.train.sample(0)
    number = int(data.train.ids[0].rsplit("tile", 1)[1][0])
    assert sample.image.shape == (3, 12, 16) and sample.image.dtype == np.uint8
    np.testing.assert_array_equal(sample.image.transpose(1, 2, 0), picture(number))
    np.testing.assert_array_equal(sample.labels, blocks(number, value=1))


@pytest.mark.parametrize(("images", "masks"), [(".", "."), ("images", "masks")])
def test_masks_are_told_by_what_their_names_begin_with(tmp_path, images, masks):
    for i in range(10):
        save(tmp_path / images / f"img_{i}.png", picture(i))
        save(tmp_path / masks / f"mask_{i}.png", blocks(i))
    assert len(open_masks(tmp_path).train) == 7 and has_masks(tmp_path)


def test_a_second_expert_beside_the_first_is_left_out(tmp_path):
    for i in range(10):
        save(tmp_path / f"{i}L.png", picture(i))
        for number in ("1st", "2nd"):
            save(tmp_path / f"{i}L_{number}HO.png", blocks(i))
    data = open_masks(tmp_path)
    assert len(data.train) == 7 and data.notes[0] == "left out: 10 masks by a second expert"


def test_masks_that_are_all_empty_are_told(tmp_path):
    with pytest.raises(DataError, match="no mask marks anything: every value in all 10 is 0"):
        open_masks(folders(tmp_path, value=0))


def test_named_folders(tmp_path):
    folders(tmp_path, images="a", masks="b")
    with pytest.raises(DataError, match=r"no images with masks.*data\.images"):
        open_masks(tmp_path)
    assert len(open_masks(tmp_path, images="a", masks="b").train) == 7
    with pytest.raises(DataError, match="c/: no such folder"):
        open_masks(tmp_path, images="a", masks="b", views="c")


def test_published_parts_and_the_hash_of_the_split(tmp_path):
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        folders(tmp_path / part, count)
    data = open_masks(tmp_path)
    assert [len(s) for s in (data.train, data.val, data.test)] == [4, 2, 3]
    folders(tmp_path / "loose" / "x", 10)
    first, second = (open_masks(tmp_path / "loose" / "x", seed=seed) for seed in (0, 1))
    assert first.test.ids == second.test.ids and first.split_hash != second.split_hash
    assert open_masks(tmp_path / "loose" / "x", test_fraction=0.4).test.ids != first.test.ids


def test_lists_of_pascal_voc(tmp_path):
    """Parts by lists of stems, those of segmentation before those of other tasks; images without a mask are no case."""
    rng = np.random.default_rng(0)
    for i in range(12):
        (tmp_path / "JPEGImages").mkdir(exist_ok=True)
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).save(tmp_path / f"JPEGImages/2008_{i:06}.jpg")
        if i < 10:
            mask = Image.fromarray(rng.integers(0, 2, (9, 9), np.uint8))
            mask.save(tmp_path / f"SegmentationClass/2008_{i:06}.png")
    for task, parts in (("Main", {"train": (0, 1, 10), "val": range(2, 10)}),
                        ("Segmentation", {"train": range(7), "val": range(7, 10)})):  # fmt: skip
        (tmp_path / "ImageSets" / task).mkdir(parents=True)
        for part, numbers in parts.items():
            lines = "".join(f"2008_{i:06}\n" for i in numbers)
            (tmp_path / "ImageSets" / task / f"{part}.txt").write_text(lines)
    data = open_masks(tmp_path)
    assert sorted(data.val.ids) == [f"JPEGImages/2008_{i:06}.jpg" for i in range(7, 10)]
    assert len(data.train) + len(data.test) == 7
    said = " ".join(data.notes)
    assert "the parts are those of ImageSets/Segmentation/train.txt, ImageSets/Segmentation/val.txt" in said
    assert "left out: 2 files in none of the lists" in said


@pytest.mark.parametrize("top", ["tiff", "."])
def test_massachusetts(tmp_path, top):
    for part, count in (("train", 3), ("val", 2), ("test", 2)):
        for i in range(count):
            save(tmp_path / top / part / f"{part}{i}_15.tiff", picture(hash((part, i)) % 1000))
            save(tmp_path / top / f"{part}_labels" / f"{part}{i}_15.tif", blocks(i))
    save(tmp_path / "png" / "train" / "x.png", picture(0))
    data = open_masks(tmp_path)
    assert data.format == "massachusetts" and [len(s) for s in (data.train, data.val, data.test)] == [3, 2, 2]
    assert data.train.sample(0).labels.max() == 1


def test_field_of_view(tmp_path):
    root = tmp_path / "training"
    for i in range(21, 31):
        view = np.zeros((12, 16), np.uint8)
        view[:, 4:] = 255
        save(root / "images" / f"{i}_training.tif", picture(i))
        Image.fromarray(blocks(i)).save(_made(root / "1st_manual") / f"{i}_manual1.gif")
        Image.fromarray(view).save(_made(root / "mask") / f"{i}_training_mask.gif")
    sample = open_masks(tmp_path).train.sample(0)
    assert (sample.labels[:, :4] == IGNORE).all() and set(np.unique(sample.labels[:, 4:])) == {0, 1}
    (root / "mask" / "25_training_mask.gif").unlink()
    with pytest.raises(DataError, match=r"25_training\.tif: has no field of view"):
        open_masks(tmp_path)


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_everything_wrong_is_told_at_once(tmp_path):
    folders(tmp_path)
    (tmp_path / "masks" / "tile0.png").unlink()
    (tmp_path / "images" / "tile1.png").unlink()
    save(tmp_path / "masks" / "tile2.png", blocks(2, (12, 15)))
    (tmp_path / "images" / "tile3.png").write_bytes(b"no picture")
    (tmp_path / "masks" / "tile4.png").write_bytes((tmp_path / "masks" / "tile5.png").read_bytes()[:40])
    save(tmp_path / "masks" / "tile6.png", np.where(blocks(6), 77, 0))
    with pytest.raises(DataError) as caught:
        open_masks(tmp_path)
    told = "\n".join(caught.value.problems)
    for expected in (
        "images/tile0.png: an image without a mask",
        "masks/tile1.png: a mask without an image",
        "masks/tile2.png: is 15 x 12, its image images/tile2.png is 16 x 12",
        "images/tile3.png: cannot be read",
        "masks/tile4.png: cannot be read",
        "masks/tile6.png: unknown label values 77",
    ):
        assert expected in told, told
    assert len(caught.value.problems) == 6
    assert open_masks(tmp_path, strict=False).problems == caught.value.problems


def test_soft_edges_are_cut_at_half(tmp_path):
    soft = np.tile(np.array([0, 100, 127, 128, 200, *[255] * 36], np.uint8), (12, 1))
    for i in range(6):
        save(tmp_path / "images" / f"{i}.png", picture(i, soft.shape))
        save(tmp_path / "masks" / f"{i}.png", soft)
    data = open_masks(tmp_path)
    np.testing.assert_array_equal(data.train.sample(0).labels[0, :6], [0, 0, 0, 1, 1, 1])
    assert "masks: foreground from 128 of 255; 6 of 6 masks have soft edges" in data.notes


def test_zero_and_one(tmp_path):
    data = open_masks(folders(tmp_path, value=1))
    assert data.train.sample(0).labels.max() == 1 and 0 < data.shares[1] < 1
    save(tmp_path / "masks" / "tile3.png", blocks(3, value=7))
    with pytest.raises(DataError, match=r"tile3\.png: label values 0, 7"):
        open_masks(tmp_path)


def test_named_classes_are_numbers(tmp_path):
    folders(tmp_path, value=2)
    data = open_masks(tmp_path, classes=("ground", "road", "water"))
    assert data.classes == ("ground", "road", "water") and data.train.sample(0).labels.max() == 2
    save(tmp_path / "masks" / "tile3.png", blocks(3, value=5))
    with pytest.raises(DataError, match=r"tile3\.png: unknown label values 5; known are 0, 1, 2"):
        open_masks(tmp_path, classes=("ground", "road", "water"))


def test_colours(tmp_path):
    colours = {"ground": "#000000", "road": [255, 0, 0], "water": "#0000ff", "ignore": 255}
    for i in range(6):
        mask = np.zeros((12, 16, 3), np.uint8)
        mask[:4], mask[4:6], mask[6:7] = (255, 0, 0), (0, 0, 255), 255
        save(tmp_path / "images" / f"{i}.png", picture(i))
        save(tmp_path / "masks" / f"{i}.png", mask)
    with pytest.raises(DataError, match=r"0\.png: is in colour.*data\.colours"):
        open_masks(tmp_path)
    data = open_masks(tmp_path, colours=colours)
    labels = data.train.sample(0).labels[:, 0]
    assert data.classes == ("ground", "road", "water")
    np.testing.assert_array_equal(labels, [1] * 4 + [2] * 2 + [IGNORE] + [0] * 5)
    save(tmp_path / "masks" / "2.png", picture(1))
    with pytest.raises(DataError, match=r"2\.png: unknown label values #"):
        open_masks(tmp_path, colours=colours)
    with pytest.raises(DataError, match="same classes"):
        open_masks(tmp_path, colours=colours, classes=("ground", "road"))
    with pytest.raises(DataError, match="expected a grey value"):
        open_masks(tmp_path, colours=colours | {"road": "red"})


def test_a_palette_counts_by_numbers(tmp_path):
    folders(tmp_path)
    for i in range(10):
        mask = Image.new("P", (16, 12))
        mask.putdata(blocks(i, value=2).ravel().tolist())
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        mask.save(tmp_path / "masks" / f"tile{i}.png")
    assert open_masks(tmp_path, classes=("a", "b", "c")).train.sample(0).labels.max() == 2


def test_few_masks_with_values_in_between_are_mistakes():
    crisp = [seen(f"{i}.png", np.array([[0, 255]], np.uint8), 255) for i in range(5)]
    odd = seen("odd.png", np.array([[0, 90, 255]], np.uint8), 255)
    _, problems, _ = decide([*crisp, odd], (), {})
    (problem,) = problems
    assert problem.startswith("odd.png: unknown label values 90, where the other masks hold 0 and 255; mend it, or say")
    lossy = seen("odd.jpg", np.array([[0, 90, 255]], np.uint8), 255)
    rule, problems, _ = decide([*crisp, lossy], (), {})
    assert not problems and rule.labels(np.array([127, 128])).tolist() == [0, 1]


def nnunet(root, count=5, dimensions=3, channels=1, labels=None, test=0):
    nibabel = pytest.importorskip("nibabel")
    for i in range(count + test):
        folder, case = ("Tr" if i < count else "Ts"), f"case{i:03}"
        shape = (9, 8, 7)[:dimensions]
        for c in range(channels):
            voxels = np.random.default_rng(i * 10 + c).normal(size=shape).astype(np.float32)
            _write(nibabel, root / f"images{folder}" / f"{case}_{c:04}.nii.gz", voxels)
        mask = np.zeros(shape, np.uint8)
        mask[:4], mask[4:6] = 1, 2
        _write(nibabel, root / f"labels{folder}" / f"{case}.nii.gz", mask)
    described = {
        "channel_names": {str(c): "CT" for c in range(channels)},
        "labels": labels or {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def _write(nibabel, path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.5, 1.0, 3.0, 1.0])), path)


def test_nnunet_volumes(tmp_path):
    data = open_masks(nnunet(tmp_path, channels=2, test=2))
    assert data.format == "nnunet" and data.classes == ("background", "liver", "tumour")
    assert (data.channels, data.dimensions, data.spacing) == (2, 3, (3.0, 1.0, 0.5))
    assert [len(s) for s in (data.train, data.val, data.test)] == [4, 1, 2]
    sample = data.train.sample(0)
    assert sample.image.shape == (2, 7, 8, 9) and sample.image.dtype == np.float32
    np.testing.assert_array_equal(sample.labels[0, 0], [1, 1, 1, 1, 2, 2, 0, 0, 0])


def decathlon(root, count=5, channels=4, named=4):
    """The Medical Segmentation Decathlon: no numbers of channels in names, a fourth axis, dataset.json of version 1."""
    nibabel = pytest.importorskip("nibabel")
    for i in range(count + 1):
        folder, case = ("Tr" if i < count else "Ts"), f"BRATS_{i:03}.nii.gz"
        voxels = np.random.default_rng(i).normal(size=(9, 8, 7, channels)).astype(np.float32)
        voxels[..., -1] = i
        _write(nibabel, root / f"images{folder}" / case, voxels if channels > 1 else voxels[..., 0])
        if i < count:
            mask = np.zeros((9, 8, 7), np.uint8)
            mask[:4], mask[4:6] = 1, 2
            _write(nibabel, root / "labelsTr" / case, mask)
    (root / "imagesTr" / "._BRATS_000.nii.gz").write_bytes(b"\0\5\x16\7")
    names = ("FLAIR", "T1w", "t1gd", "T2w")[:named]
    described = {
        "name": "BRATS",
        "tensorImageSize": "4D",
        "modality": {str(i): name for i, name in enumerate(names)},
        "labels": {"0": "background", "1": "edema", "2": "tumour"},
        "numTraining": count,
        "training": [{"image": f"./imagesTr/BRATS_{i:03}.nii.gz"} for i in range(count)],
    }
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def test_a_fourth_axis_of_the_decathlon_holds_channels(tmp_path):
    data = open_masks(decathlon(tmp_path))
    assert (data.channels, data.dimensions, data.spacing) == (4, 3, (3.0, 1.0, 0.5))
    assert sum(len(split) for split in (data.train, data.val, data.test)) == 5
    assert "channels: FLAIR, T1w, t1gd, T2w (dataset.json)" in data.notes
    assert any("imagesTs, which has no labels (1 file)" in note for note in data.notes)
    sample = data.train.sample(0)
    number = int(data.train.ids[0].rpartition("_")[2][:3])
    expected = np.random.default_rng(number).normal(size=(9, 8, 7, 4)).astype(np.float32)
    np.testing.assert_array_equal(sample.image[:3], expected.transpose(3, 2, 1, 0)[:3])
    np.testing.assert_array_equal(sample.image[3], number)


@pytest.mark.parametrize(
    ("channels", "named", "said"),
    [
        (
            4,
            2,
            r"axes of sizes (9, 8, 7, 4): 4 volumes, expected 2; a fourth axis is read as channels where dataset.json",
        ),
        (4, 1, r"axes of sizes (9, 8, 7, 4): 4 volumes, expected 1; "),
        (1, 4, r"holds 1 channel, expected 4"),
    ],
)
def test_channels_are_those_that_the_description_names(tmp_path, channels, named, said):
    with pytest.raises(DataError) as caught:
        open_masks(decathlon(tmp_path, channels=channels, named=named))
    assert len(caught.value.problems) == 5 and all(said in problem for problem in caught.value.problems)


def test_nnunet_pictures_hold_three_channels(tmp_path):
    described = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "road": 1}}
    for i in range(10):
        save(tmp_path / "imagesTr" / f"road_{i}_0000.png", picture(i))
        save(tmp_path / "labelsTr" / f"road_{i}.png", blocks(i, value=1))
    (tmp_path / "dataset.json").write_text(json.dumps(described | {"numTraining": 10, "file_ending": ".png"}))
    data = open_masks(tmp_path)
    assert (len(data.train), data.channels, data.classes) == (7, 3, ("background", "road"))


def test_nnunet_version_1_and_ignored_labels(tmp_path):
    one = open_masks(nnunet(tmp_path / "a", labels={"0": "background", "1": "liver", "2": "tumour"}))
    assert one.classes == ("background", "liver", "tumour")
    ignored = open_masks(nnunet(tmp_path / "b", labels={"background": 0, "liver": 1, "ignore": 2}))
    np.testing.assert_array_equal(ignored.train.sample(0).labels[0, 0, :7], [1, 1, 1, 1, IGNORE, IGNORE, 0])


def test_nnunet_problems(tmp_path):
    nnunet(tmp_path, count=6, channels=2, labels={"background": 0, "liver": 1})
    (tmp_path / "imagesTr" / "case000_0001.nii.gz").unlink()
    (tmp_path / "labelsTr" / "case001.nii.gz").unlink()
    (tmp_path / "imagesTr" / "case002_0000.nii.gz").write_bytes(b"\x1f\x8b nothing")
    with pytest.raises(DataError) as caught:
        open_masks(tmp_path)
    told = "\n".join(caught.value.problems)
    assert "case000_0000.nii.gz: channels _0001 of its case are missing" in told
    assert "case001_0000.nii.gz: an image without a mask" in told
    assert "imagesTr/case002_0000.nii.gz: cannot be read" in told
    assert "labelsTr/case003.nii.gz: unknown label values 2; known are 0, 1" in told
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: cannot be read"):
        open_masks(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"channel_names": 2}, "channel_names are 2; expected a table"),
        ({"labels": {"background": 0, "liver": 1.5}}, "expected one whole number a class"),
        ({"labels": {"background": -1, "liver": 1}}, "expected one whole number a class"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "regions of several labels are not read"),
        ({"labels": {"background": 0}}, "at least two classes"),
        ({"labels": ["background"]}, 'has no table "labels"'),
        ({"file_ending": ".nrrd"}, r"no files that end in \.nrrd"),
    ],
)
def test_descriptions_that_say_nothing(tmp_path, change, said):
    nnunet(tmp_path)
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=said):
        open_masks(tmp_path)


def test_numbers_of_labels_may_be_text(tmp_path):
    labels = {"background": "0", "liver": "1", "tumour": "2"}
    assert open_masks(nnunet(tmp_path, labels=labels)).classes == ("background", "liver", "tumour")


def test_an_empty_folder_of_masks_means_that_all_are_missing(tmp_path):
    folders(tmp_path, 3)
    for file in (tmp_path / "masks").iterdir():
        file.unlink()
    with pytest.raises(DataError) as caught:
        open_masks(tmp_path)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [f"images/tile{i}.png" for i in range(3)]


def test_generated_sets_and_no_torch():
    code = (
        "from ssmlab.data.masks.reader import open_masks; import sys;"
        "d = [open_masks(name) for name in ('shapes', 'cells')]; assert 'torch' not in sys.modules;"
        "print(d[0].split_hash, *(round(x.shares[1], 2) for x in d), d[0].format)"
    )
    found = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert found[0].stdout == found[1].stdout and found[0].stdout.split()[3] == "generated"
    assert 0.05 < float(found[0].stdout.split()[1]) < 0.5


def test_equal_images_in_two_parts_are_noted(tmp_path):
    for part in ("train", "val", "test"):
        folders(tmp_path / part, 3)
    assert sum(note.startswith("equal images in different parts: ") for note in open_masks(tmp_path).notes) == 3


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(DataError, match="no such file or folder; expected folders of images and of masks"):
        open_masks(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no images with masks in a known layout, found nothing"):
        open_masks(tmp_path)


def test_the_command_checks_masks_too(tmp_path):
    from typer.testing import CliRunner

    from ssmlab.cli.data import app

    good = CliRunner().invoke(app, ["check", str(folders(tmp_path))])
    assert good.exit_code == 0 and "7 train, 1 val, 2 test" in good.output and "can be read" in good.output
    (tmp_path / "masks" / "tile3.png").unlink()
    bad = CliRunner().invoke(app, ["check", str(tmp_path), "--json"])
    told = json.loads(bad.output)
    assert bad.exit_code == 2 and not told["ok"] and "tile3.png: an image without a mask" in told["problems"][0]
    folders(tmp_path / "other", images="a", masks="b")
    assert CliRunner().invoke(app, ["check", str(tmp_path / "other"), "--masks"]).exit_code == 2


def test_a_set_of_classes_is_no_set_of_masks(tmp_path):
    folders(tmp_path, images="cat", masks="dog")
    assert not has_masks(tmp_path) and not has_masks("digits") and has_masks("shapes")
    for i in range(2):
        save(tmp_path / "roads" / "tiff" / "train" / f"{i}.tiff", picture(i))
        save(tmp_path / "roads" / "tiff" / "train_labels" / f"{i}.tif", blocks(i))
    assert has_masks(tmp_path / "roads")


def test_nifti_without_nibabel_is_one_line(tmp_path, monkeypatch):
    nnunet(tmp_path)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(DataError, match=r"NIfTI files need nibabel.*pip install 'ssmlab\[medical\]'"):
        open_masks(tmp_path)
