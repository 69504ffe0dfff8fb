"""What the values of masks mean: files of every form beside each other, and those that mean something else."""

import numpy as np
import pytest
from PIL import Image

from ssmlab.core.errors import DataError
from ssmlab.data.masks.reader import open_masks
from ssmlab.data.masks.values import IGNORE, decide, seen


def picture(number, size):
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def blocks(number, value=255):
    mask = np.zeros((12, 16), np.uint8)
    mask[: 3 + number % 5, :7] = value
    return mask


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


FORMS = {
    "grey": lambda m: (Image.fromarray(m * np.uint8(255)), ".png"),
    "one_bit": lambda m: (Image.fromarray(m * np.uint8(255)).convert("1"), ".png"),
    "one_bit_tiff": lambda m: (Image.fromarray(m * np.uint8(255)).convert("1"), ".tif"),
    "palette": lambda m: (_palette(m, [0, 0, 0, 255, 255, 255]), ".png"),
    "gif": lambda m: (Image.fromarray(m * np.uint8(255)).convert("P"), ".gif"),
    "alpha": lambda m: (Image.fromarray(np.stack([m] * 3 + [m], -1) * np.uint8(255)), ".png"),
    "alpha_alone": lambda m: (Image.fromarray(np.stack([m | True] * 3 + [m], -1) * np.uint8(255)), ".png"),
    "black_on_nothing": lambda m: (Image.fromarray(np.stack([m & False] * 3 + [m], -1) * np.uint8(255)), ".png"),
    "sixteen_bits": lambda m: (Image.fromarray(m.astype(np.uint16) * 65535), ".png"),
    "sixteen_bits_low": lambda m: (Image.fromarray(m.astype(np.uint16) * 255), ".tif"),
    "float": lambda m: (Image.fromarray(m.astype(np.float32)), ".tif"),
    "jpeg": lambda m: (Image.fromarray(np.kron(m, np.ones((8, 8), np.uint8)) * np.uint8(255)), ".jpg"),
}


def _palette(mask, colours):
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(colours)
    return image


def mixed(root, forms, count=24):
    """Images with masks whose files are of these forms, in turns; and the masks, by the name of the image."""
    made = {}
    for i in range(count):
        mask, form = blocks(i, value=1).astype(bool), forms[i % len(forms)]
        image, suffix = FORMS[form](mask)
        (root / "masks").mkdir(parents=True, exist_ok=True)
        image.save(root / "masks" / f"{i}{suffix}")
        save(root / "images" / f"{i}.png", picture(i, image.size[::-1]))
        made[f"images/{i}.png"] = np.kron(mask, np.ones((8, 8), bool)) if suffix == ".jpg" else mask
    return made


@pytest.mark.parametrize("form", [*FORMS, "all"])
def test_masks_of_every_form_in_one_folder(tmp_path, form):
    made = mixed(tmp_path, list(FORMS) if form == "all" else ["grey", "grey", form])
    data = open_masks(tmp_path)
    for part in (data.train, data.val, data.test):
        for i, id_ in enumerate(part.ids):
            np.testing.assert_array_equal(part.sample(i).labels, made[id_], err_msg=id_)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: Image.fromarray(m.astype(np.uint8)), "unknown label values 1, where the other masks hold 0 and 255"),
        (lambda m: _palette(m, [0, 0, 0, 128, 0, 0]), "unknown label values 1, where the other"),
        (lambda m: Image.fromarray(m.astype(np.uint16) * 300), "unknown label values 300, where the other"),
        (lambda m: Image.fromarray(np.stack([m * 255, m * 0, m * 0], -1).astype(np.uint8)), "is in colour"),
    ],
)
def test_a_mask_of_another_meaning_is_named(tmp_path, change, said):
    mixed(tmp_path, ["grey", "one_bit", "sixteen_bits_low"])
    change(blocks(3, value=1).astype(bool)).save(tmp_path / "masks" / "3.png")
    with pytest.raises(DataError) as caught:
        open_masks(tmp_path)
    assert len(caught.value.problems) == 1 and caught.value.problems[0].startswith(f"masks/3.png: {said}")


def test_jpegs_excuse_no_other_mask(tmp_path):
    mixed(tmp_path, ["grey", "grey", "jpeg"])
    soft = np.kron(blocks(2, value=1), np.ones((8, 8))) * 200 + 20
    Image.fromarray(soft.astype(np.uint8)).save(tmp_path / "masks" / "2.jpg")
    Image.fromarray(blocks(3, value=77)).save(tmp_path / "masks" / "3.png")
    with pytest.raises(DataError) as caught:
        open_masks(tmp_path)
    assert [problem[:11] for problem in caught.value.problems] == ["masks/3.png"]


def masks_of(rows, name="{}.png", full=255):
    return [seen(name.format(i), np.array([row]), full) for i, row in enumerate(rows)]


VOC = [[0, 0, 1, 255, 2, 2], [0, 5, 5, 255, 0, 0], [0, 1, 2, 5, 255, 0]]


@pytest.mark.parametrize("palette", [False, True])
def test_numbers_keep_their_values_and_255_is_not_counted(tmp_path, palette):
    for i in range(8):
        mask = blocks(i, value=0)
        mask[:2], mask[2:4], mask[4:6], mask[6] = 1, 2, 5, 255
        save(tmp_path / "images" / f"{i}.png", picture(i, mask.shape))
        save(tmp_path / "masks" / f"{i}.png", mask)
        if palette:
            _palette(mask, list(range(0, 240, 2)) * 3 + [9] * 408).save(tmp_path / "masks" / f"{i}.png")
    data = open_masks(tmp_path)
    assert data.classes == ("background", "label 1", "label 2", "label 5") and data.numbers == (0, 1, 2, 5)
    rows = data.train.sample(0).labels[:, 0]
    assert rows.tolist() == [1, 1, 2, 2, 3, 3, IGNORE, *[0] * 5]
    assert "masks: numbers are labels, 0 in 8 masks, 1 in 8 masks, 2 in 8 masks, 5 in 8 masks" in data.notes
    assert "masks: 255 is not counted (data.ignore)" in data.notes
    data = open_masks(tmp_path, ignore="none")
    assert data.numbers == (0, 1, 2, 5, 255) and data.train.sample(0).labels[6, 0] == 4
    data = open_masks(tmp_path, ignore=5)
    assert data.numbers == (0, 1, 2, 255) and data.train.sample(0).labels[4, 0] == IGNORE
    named = open_masks(tmp_path, classes=("ground", *"abcde"))
    assert named.numbers == () and set(np.unique(named.train.sample(0).labels)) == {0, 1, 2, 5, IGNORE}
    assert "masks: 255 is not counted, it is none of the 6 classes (data.ignore)" in named.notes
    with pytest.raises(DataError, match=r"unknown label values 255; known are 0, 1, 2, 3, 4, 5"):
        open_masks(tmp_path, classes=("ground", *"abcde"), ignore="none")
    with pytest.raises(DataError, match=r"hold 4 labels \(0, 1, 2, 5\), data.classes has 2 names; name all of them"):
        open_masks(tmp_path, classes=("ground", "road"))


def test_what_numbers_are_is_decided_for_the_whole_set():
    rule, problems, notes = decide(masks_of([[0, 85, 170, 255]] * 4), (), {})
    assert rule.numbers == (0, 85, 170, 255) and not problems, "evenly spread numbers are classes, 255 too"
    rule, problems, _ = decide(masks_of([[0, 1, 2], [0, 1, 1], [0, 2, 2]]), (), {})
    assert rule.classes == ("background", "label 1", "label 2") and not problems
    rule, problems, _ = decide(masks_of([[0, 7, 7]] * 3), (), {})
    assert rule.classes == ("background", "foreground") and rule.labels(np.array([0, 7])).tolist() == [0, 1]
    rule, _, notes = decide(masks_of([[1, 2, 3], [1, 2, 1]]), (), {})
    assert rule.classes == ("label 1", "label 2", "label 3") and notes[0].endswith("1 is the background")
    rule, problems, _ = decide(masks_of([[0, 0, 0]] * 3), (), {})
    assert problems == ["no mask marks anything: every value in all 3 is 0"]
    _, problems, _ = decide(masks_of([[0, -1, 2, 3]] * 3, full=255), (), {})
    assert problems[0] == "0.png: negative label values -1" and len(problems) == 3
    _, problems, _ = decide(masks_of([[0, -1, 2, 3]] * 3), (), {}, ignore=-1)
    assert not problems


def test_a_few_masks_of_another_number_are_mistakes_unless_the_user_says_labels():
    rows = [[0, 1]] * 9 + [[0, 7]]
    _, problems, _ = decide(masks_of(rows), (), {})
    assert problems == [
        "9.png: label values 0, 7, where most masks hold 0 and 1; mend it, or set data.values=labels if they are right"
    ]
    rule, problems, notes = decide(masks_of(rows), (), {}, values="labels")
    assert rule.numbers == (0, 1, 7) and not problems and "7 in 1 mask" in notes[0]


@pytest.mark.parametrize("ids", ["counted", "at random"])
def test_instances_are_foreground(ids):
    rng = np.random.default_rng(0)
    rows = [[0, *range(1, n + 1)] for n in (3, 9, 40, 14, 5, 8)]
    if ids == "at random":
        rows = [[0, *rng.choice(5000, 20, replace=False)] for _ in range(6)]
    masks = masks_of(rows, full=65535 if ids == "at random" else 255)
    rule, problems, notes = decide(masks, (), {})
    assert rule.classes == ("background", "foreground") and not problems
    assert rule.labels(np.array([0, 1, 77, 4999])).tolist() == [0, 1, 1, 1]
    most = 20 if ids == "at random" else 40
    assert notes[0].startswith(
        f"masks: numbers count instances (up to {most} in a mask), all are foreground; data.values"
    )
    few = masks_of([[0, 1, 2, 3], [0, 1, 2, 3]])
    assert decide(few, ("ground", "cell"), {}, values="instances")[0].classes == ("ground", "cell")
    assert len(decide(few, (), {})[0].classes) == 4
    assert len(decide(masks, (), {}, values="labels")[0].classes) > 40


def test_true_grey_levels_are_cut_at_half():
    rng = np.random.default_rng(0)
    levels = [[0, *rng.integers(1, 255, 40), *[255] * 60] for _ in range(6)]
    for masks in (masks_of(levels), masks_of([[0, 0, 9, 240]] * 6, name="{}.jpg")):
        rule, problems, notes = decide(masks, (), {})
        assert rule.labels(np.array([0, 127, 128])).tolist() == [0, 0, 1] and not problems
        assert notes[0].startswith("masks: foreground from 128 of 255; 6 of 6 masks have soft edges")
    rule, _, _ = decide(masks_of(VOC), (), {}, values="grey")
    assert rule.labels(np.array([5, 255])).tolist() == [0, 1]
    _, problems, _ = decide(masks_of([[0, 1, 2, 3]], name="{}.jpg"), (), {}, values="labels")
    assert problems == ["0.jpg: JPEG changes numbers, and these are labels; save it as PNG"]
    cityscapes = [[0, *range(1, 19), *[255] * 30]] * 4
    assert len(decide(masks_of(cityscapes), (), {})[0].classes) == 19, "many numbers, but not all over the range"


def test_instances_with_gaps_and_labels_of_organs():
    """Cells that others cover leave gaps in the numbers; organs that some scans lack do too, but their ends agree."""

    def mask(i, numbers):
        return seen(f"{i}.png", np.array([0, *numbers], np.uint16), 255)

    cells = [mask(i, sorted({*range(1, 20 + 3 * i)} - {4 + i, 9})) for i in range(8)]
    assert decide(cells, (), {})[0].instances
    organs = [mask(i, sorted({*range(1, 21)} - {1 + i, 20 - i % 3})) for i in range(8)]
    rule, problems, _ = decide(organs, (), {})
    assert not rule.instances and not problems and len(rule.classes) == 21
