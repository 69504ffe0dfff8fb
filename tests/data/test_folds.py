"""Folds: balanced, grouped, the same everywhere, and nnU-Net's file there and back."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ssmlab.core.errors import DataError
from ssmlab.data.copies import digest, kept_together
from ssmlab.data.folds import Division, Fold, draw_folds, read_splits, splits_text
from ssmlab.data.near import near_across_folds, thumbnail


def division(**changes):
    return Division(**{"folds": 5, "val_fraction": 0.1, "seed": 0} | changes)


def items(n=60, groups=12):
    ids = [f"{i:03}.png" for i in range(n)]
    labels = [i % 3 if i % 7 else 0 for i in range(n)]
    return ids, labels, [f"p{i % groups}" for i in range(n)]


@pytest.mark.parametrize("grouped", [False, True])
def test_every_item_is_held_out_once_and_groups_stay_whole(grouped):
    ids, labels, groups = items()
    (folds,) = division().divide(ids, labels, groups if grouped else None)
    assert sorted(i for fold in folds for i in fold.held_out) == list(range(60))
    for fold in folds:
        sides = [set(fold.train), set(fold.val), set(fold.held_out)]
        assert sum(map(len, sides)) == 60 and all(sides)
        assert not (sides[0] & sides[1] or sides[1] & sides[2] or sides[0] & sides[2])
        if grouped:
            names = [{groups[i] for i in side} for side in sides]
            assert not (names[0] & names[1] or names[1] & names[2] or names[0] & names[2])


def test_classes_are_dealt_evenly():
    ids, labels, _ = items(101)
    held = draw_folds(ids, labels, None, folds=5)
    for label in range(3):
        counts = [sum(labels[i] == label for i in fold) for fold in held]
        assert max(counts) - min(counts) <= 1
    assert max(map(len, held)) - min(map(len, held)) <= 3


def test_they_do_not_depend_on_the_order_and_repeats_differ():
    ids, labels, groups = items()
    first = draw_folds(ids, labels, groups, folds=5)
    order = np.random.default_rng(0).permutation(60)
    again = draw_folds([ids[i] for i in order], [labels[i] for i in order], [groups[i] for i in order], folds=5)
    named = {frozenset(ids[i] for i in fold) for fold in first}
    assert named == {frozenset(ids[order[i]] for i in fold) for fold in again}
    one, other = division(repeats=2).divide(ids, labels, groups)
    assert {fold.held_out for fold in one} != {fold.held_out for fold in other}


def test_nnunets_file_there_and_back(tmp_path):
    ids, labels, groups = items()
    (folds,) = division().divide(ids, labels, groups)
    file = tmp_path / "splits_final.json"
    file.write_text(splits_text(folds, ids))
    rows = json.loads(file.read_text())
    assert [set(row) for row in rows] == [{"train", "val"}] * 5
    assert all(len(row["train"]) + len(row["val"]) == 60 for row in rows)
    (read,) = division(folds=0, splits=str(file)).divide(ids, labels, groups)
    assert read == folds
    bare = [{side: [name.removesuffix(".png") for name in names] for side, names in row.items()} for row in rows]
    file.write_text(json.dumps(bare))
    (held,) = read_splits(file, ids, [lambda id_: id_.removesuffix(".png")])
    assert [tuple(fold) for fold in held] == [fold.held_out for fold in folds]


def test_repeats_are_read_round_by_round(tmp_path):
    ids, labels, _ = items()
    both = division(repeats=2).divide(ids, labels)
    file = tmp_path / "s.json"
    file.write_text(splits_text([fold for one in both for fold in one], ids))
    assert division(repeats=2, splits=str(file)).divide(ids, labels) == both
    with pytest.raises(DataError, match=r"holds 2 x 5 folds; give folds=5 repeats=2"):
        division(splits=str(file)).divide(ids, labels)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[0]["train"].append("none.png"), "names 1 image that are not there"),
        (lambda rows: rows[0]["train"].append(rows[0]["val"][0]), "is in train and in val"),
        (lambda rows: rows[0]["train"].pop(), "fold 0 leaves out 1 image"),
        (lambda rows: rows.pop(), "never held out"),
        (lambda rows: rows.insert(1, rows[0]), "held out twice"),
        (lambda rows: rows[0].pop("val"), "expected a list of"),
    ],
)
def test_mistakes_in_a_file(tmp_path, change, said):
    ids, labels, _ = items()
    rows = json.loads(splits_text(division().divide(ids, labels)[0], ids))
    change(rows)
    file = tmp_path / "s.json"
    file.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=said):
        division(splits=str(file)).divide(ids, labels)


def test_mistakes_in_the_data():
    ids, labels, groups = items()
    with pytest.raises(DataError, match="needs at least 13 groups, there are 12"):
        division(folds=13).divide(ids, labels, groups)
    with pytest.raises(DataError, match="class 9 is only in its held-out part"):
        division().divide(ids, [9, *labels[1:]], groups)
    published = [f"fold{i % 4}" for i in range(60)]
    with pytest.raises(DataError, match="name 4 folds .* take folds=4"):
        division().divide(ids, labels, None, published)
    (folds,) = division(folds=4).divide(ids, labels, None, published)
    assert Counter(published[i] for i in folds[2].held_out) == {"fold2": 15}
    with pytest.raises(DataError, match="group 'p0' is in folds 0 and"):
        division(folds=4).divide(ids, labels, [f"p{i // 2}" for i in range(60)], published)


def test_copies_and_copies_of_copies_are_kept_together():
    ids, keys = list("abcdef"), [b"1", b"2", b"1", b"3", b"4", b"3"]
    assert kept_together(ids, None, [b"%d" % i for i in range(6)]) is None
    found = kept_together(ids, None, keys)
    assert found[0] == found[2] and found[3] == found[5] and len(set(found)) == 4
    found = kept_together(ids, ["p", "p", "q", "q", "r", "s"], keys)
    assert len(set(found[:4])) == 1 and found[5] == found[3] and found[4] == "r"
    assert len(set(found)) == 2


def test_what_looks_alike_in_different_folds_is_listed():
    """A brighter copy of the first picture is in another fold; an equal one, a flat one and one in its own fold are not
    listed."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 200, (6, 24, 24)).astype(np.uint8)
    pixels[1], pixels[2], pixels[3] = pixels[0] + 20, pixels[0], 7
    folds = [[Fold(0, (), (), (0, 4)), Fold(1, (), (), (1, 2, 3, 5))]]
    thumbs = [thumbnail(Image.fromarray(each)) for each in pixels]
    ids, digests = [f"{i}.png" for i in range(6)], [digest(each) for each in pixels]
    found = near_across_folds(thumbs, digests, ids, folds)
    assert found.pairs == [("0.png", "1.png")]
    assert found.notes[0].startswith("1 pair of images in different folds look nearly alike (0.png and 1.png)")
    together = [[Fold(0, (), (), (0, 1, 2, 4)), Fold(1, (), (), (3, 5))]]
    assert near_across_folds(thumbs, digests, ids, together) == ([], [])
