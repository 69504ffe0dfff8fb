"""The handwritten digits that scikit-learn ships: 1,797 real pictures of 8 x 8 pixels, 10 classes, no
download.

Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits" (UCI), its test part; grey values
0..16 become 0..255. The split is fixed, whatever val_fraction and seed are: 20 % of every digit are test, an
eighth of the rest (10 % of all) validation, chosen by the hash of the ids "digits/0000" to "digits/1796"
(splits.py, seed 0).
"""

import numpy as np

from ssmlab.data.contents import Contents, Item
from ssmlab.data.images.medmnist import ArrayPictures
from ssmlab.data.splits import TEST_FRACTION, held_out


def read_digits(group: str | None) -> Contents:
    """All digits in their parts. A `group` is a problem: the set says nothing about its writers."""
    from sklearn.datasets import load_digits  # a second to import, and needed here only

    pixels, numbers = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = [str(number) for number in numbers.tolist()]
    ids = [f"digits/{i:04d}" for i in range(len(labels))]
    test = held_out(ids, labels, fraction=TEST_FRACTION, seed=0, part="test")
    rest = [i for i in range(len(ids)) if i not in test]
    chosen = held_out([ids[i] for i in rest], [labels[i] for i in rest], fraction=0.125, seed=0, part="val")
    val = {rest[i] for i in chosen}
    items = [
        Item(ids[i], labels[i], "test" if i in test else "val" if i in val else "train", ("digits", i))
        for i in range(len(ids))
    ]
    contents = Contents(
        name="digits",
        format="digits",
        classes=tuple("0123456789"),
        items=items,
        load=ArrayPictures({"digits": images}),
    )
    if group is not None:
        contents.problems.append(f"group {group!r}: the embedded digits have no such column; leave it out")
    return contents
