"""What the values of masks mean: files of every form beside each other, and those that mean something else."""

import numpy as np
import pytest
from PIL import Image

from ssmlab.data.masks import open_masks
from ssmlab.errors import DataError


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
