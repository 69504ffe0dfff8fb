"""The images of a run in memory."""

import numpy as np
import pytest
from PIL import Image

from ssmlab.core.errors import DataError, ModelError, RecipeError
from ssmlab.tasks.classify.data import load_images, spread_over_classes
from ssmlab.tasks.classify.experiment import build
from ssmlab.tasks.classify.images import channel_statistics
from ssmlab.tasks.recipe import load_recipe

DIGITS = "classification/digits_resnet18_vs_hybrid"


def test_digits_with_a_limit():
    images = load_images(load_recipe(DIGITS, ["data.limit=50", "data.image_size=16"]))
    for part in (images.train, images.val, images.test):
        assert part.images.shape == (50, 16, 16, 3) and len(part.ids) == len(set(part.ids)) == 50
        assert np.bincount(part.labels, minlength=10).tolist() == [5] * 10
    assert images.describe["counts"] == {"train": 50, "val": 50, "test": 50}
    again = load_images(load_recipe(DIGITS, ["data.limit=50", "data.image_size=16"]))
    assert again.train.ids == images.train.ids


def test_channel_statistics():
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 5, 3), dtype=np.uint8)
    images[..., 2] = 51
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((images / 255).mean((0, 1, 2)), abs=1e-6)
    assert std == pytest.approx([*(images / 255).std((0, 1, 2))[:2], 1.0], abs=1e-6)


def test_spread_over_rare_classes():
    labels = np.array([0] * 90 + [1] * 8 + [2] * 2)
    kept = spread_over_classes(labels, 12, seed=0)
    assert np.bincount(labels[kept]).tolist() == [5, 5, 2] and sorted(kept) == kept.tolist()


def test_unreadable_images_of_all_parts_are_reported_together(tmp_path):
    for part in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), (40 * i, 0, 90)).save(folder / f"{i}.png")
        (tmp_path / part / "a" / "1.png").write_bytes(b"nothing")
    with pytest.raises(DataError) as caught:
        load_images(load_recipe(DIGITS, [f"data.path={tmp_path}"]))
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["train/a/1.png", "test/a/1.png"]


def test_the_positive_class_must_exist():
    with pytest.raises(RecipeError, match="evaluation.positive='ten' is no class of the data: 0, 1"):
        load_images(load_recipe(DIGITS, ["evaluation.positive=ten", "data.limit=20"]))
    with pytest.raises(RecipeError, match=r"evaluation\.positive is for two classes, the data have 10; leave it out"):
        load_images(load_recipe(DIGITS, ["evaluation.positive='3'", "data.limit=20"]))


def test_images_that_are_too_small_for_a_network():
    recipe = load_recipe(DIGITS, ["data.limit=10", "data.image_size=28", 'models=[{name="timm/convnext_atto"}]'])
    with pytest.raises(ModelError, match=r"convnext_atto cannot take images of 28 x 28.*larger data\.image_size"):
        build(recipe, load_images(recipe), recipe.models[0], 0)
