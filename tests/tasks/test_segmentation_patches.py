"""Patches: the same for the same seed, true to the image, and of the foreground as often as asked for."""

import json

import numpy as np
import pytest
import torch

from ssmlab.core.progress import Progress
from ssmlab.tasks.segment.patches import Patches, between, intensity, positions, sampled
from ssmlab.tasks.segment.recipe import PatchAugment
from ssmlab.tasks.segment.timeline import Timeline, read_seconds
from ssmlab.tasks.shared.dice import IGNORE

NONE = PatchAugment(mirror=False, rotate=0, scale=0, brightness=0, gamma=0, noise=0)


def images(count=3, size=(20, 24), channels=2):
    generator = torch.Generator().manual_seed(0)
    found = [torch.randn(channels, *size, generator=generator) for _ in range(count)]
    return [(image, (image[0] > 1.2).to(torch.uint8)) for image in found]


def patches(held, patch=(8, 8), **changes):
    settings = {"batch_size": 4, "steps": 5, "seed": 1, "foreground": 0.33, "augment": NONE} | changes
    return Patches(held.__getitem__, len(held), patch, **settings)


def batch(part, iteration):
    return part.__getitems__(list(range(iteration * part.batch_size, (iteration + 1) * part.batch_size)))


def test_an_iteration_is_always_the_same():
    held = images()
    one, other = (patches(held, augment=PatchAugment(probability=1)) for _ in range(2))
    batch(other, 3)
    torch.testing.assert_close(batch(one, 2)["images"], batch(other, 2)["images"], rtol=0, atol=0)
    other.begin_epoch(1)
    assert not torch.equal(batch(one, 2)["images"], batch(other, 2)["images"])
    longer = patches(held, steps=20, augment=PatchAugment(probability=1))
    torch.testing.assert_close(batch(longer, 7)["images"], batch(other, 2)["images"], rtol=0, atol=0)
    assert not torch.equal(batch(patches(held, seed=2), 0)["images"], batch(patches(held), 0)["images"])


@pytest.mark.parametrize("size", [(20, 24), (8, 30), (9, 12, 10)])
def test_unchanged_patches_are_cut_out(size):
    held = images(size=size)
    part = patches(held, (8,) * len(size))
    found = batch(part, 0)
    for image, labels in zip(found["images"], found["labels"]):
        assert any(_inside(image, whole) for whole, _ in held)
        np.testing.assert_array_equal(labels, (image[0] > 1.2).to(torch.uint8))


def _inside(patch, image):
    spans = [range(n - p + 1) for n, p in zip(image.shape[1:], patch.shape[1:])]
    starts = np.stack(np.meshgrid(*spans, indexing="ij"), -1).reshape(-1, len(spans))
    cuts = (tuple(slice(s, s + p) for s, p in zip(start, patch.shape[1:])) for start in starts)
    return any(torch.allclose(image[(slice(None), *cut)], patch, atol=1e-5) for cut in cuts)


def test_small_images_are_padded_with_what_is_not_counted():
    part = patches(images(size=(5, 30)))
    found = batch(part, 0)
    outside = found["labels"] == IGNORE
    assert (outside.sum((1, 2)) == 3 * 8).all() and (found["images"][:, 0][outside] == 0).all()


def test_a_share_is_centred_on_the_foreground():
    image = torch.zeros(1, 60, 60)
    labels = torch.zeros(60, 60, dtype=torch.uint8)
    labels[3, 4], labels[50, 20] = 1, 2
    part = patches([(image, labels)], (5, 5), foreground=0.33, batch_size=4, steps=100)
    middle = torch.cat([batch(part, i)["labels"] for i in range(50)]).flatten(1).amax(1)
    assert 60 <= int((middle > 0).sum()) <= 80
    assert 20 <= int((middle == 1).sum()) <= 46
    nothing = patches([(image, torch.zeros_like(labels))], (5, 5), foreground=1.0)
    assert batch(nothing, 0)["labels"].max() == 0


def test_one_patch_an_iteration_is_forced_as_often():
    image, labels = torch.zeros(1, 60, 60), torch.zeros(60, 60, dtype=torch.uint8)
    labels[30, 30] = 1
    part = patches([(image, labels)], (3, 3), foreground=0.25, batch_size=1, steps=40)
    assert sum(int(batch(part, i)["labels"].max()) for i in range(40)) == 10


def test_turning_and_scaling_move_labels_with_the_image():
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    image = torch.stack([rows, columns]) / 64
    labels = (rows > columns).to(torch.uint8)
    augment = NONE.model_copy(update={"rotate": 180.0, "scale": 0.3, "mirror": True, "probability": 1.0})
    found = batch(patches([(image, labels)], (16, 16), augment=augment), 0)
    inside = found["labels"] != IGNORE
    difference = found["images"][:, 0] - found["images"][:, 1]
    clear = inside & (difference.abs() > 2 / 64)
    assert clear.any() and ((difference > 0) == (found["labels"] == 1))[clear].all()


def test_a_quarter_turn_is_exact():
    image, labels = images(1, (9, 9))[0]
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    found, truth = sampled(image, labels, np.array([4.0, 4.0]), turn, (9, 9))
    torch.testing.assert_close(found, torch.rot90(image, -1, (1, 2)), atol=1e-5, rtol=0)
    assert torch.equal(truth, torch.rot90(labels, -1, (0, 1)))


def test_volumes_of_thick_slices_are_turned_in_their_plane():
    held = images(1, (6, 12, 12))
    augment = NONE.model_copy(update={"rotate": 90.0, "probability": 1.0})
    flat = patches(held, (4, 8, 8), augment=augment, spacing=(5.0, 1.0, 1.0))
    matrix = flat._transformation(np.random.default_rng(0))
    np.testing.assert_allclose(matrix[0], [1, 0, 0])
    whole = patches(held, (4, 8, 8), augment=augment)._transformation(np.random.default_rng(0))
    assert abs(whole[0, 0]) < 1 and batch(flat, 0)["images"].shape == (4, 2, 4, 8, 8)


def test_intensity():
    values = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert intensity(values, NONE, np.random.default_rng(0)) is values
    for name in ("brightness", "gamma", "noise"):
        changed = intensity(values, NONE.model_copy(update={name: 0.3, "probability": 1.0}), np.random.default_rng(0))
        assert not torch.equal(changed, values) and changed.isfinite().all()
    gamma = intensity(values, NONE.model_copy(update={"gamma": 0.3, "probability": 1.0}), np.random.default_rng(0))
    torch.testing.assert_close(gamma.amax((1, 2, 3)), values.amax((1, 2, 3)))
    never = intensity(values, PatchAugment(probability=0), np.random.default_rng(0))
    torch.testing.assert_close(never, values)
    drawn = [between(np.random.default_rng(i), 0.5) for i in range(200)]
    assert min(drawn) > 0.5 and max(drawn) < 2 and 70 < sum(d > 1 for d in drawn) < 130


def test_positions_of_every_class(monkeypatch):
    labels = np.array([[0, 1, 1], [255, 2, 1]], np.uint8)
    found = positions(labels, np.random.default_rng(0))
    assert [p.tolist() for p in found] == [[[0, 1], [0, 2], [1, 2]], [[1, 1]]]
    monkeypatch.setattr("ssmlab.tasks.segment.patches.MOST_POSITIONS", 2)
    assert len(positions(labels, np.random.default_rng(0))[0]) == 2


def test_the_timeline_leaves_out_what_is_between_stretches(tmp_path, monkeypatch):
    clock = iter([0.0, 10.0, 11.0, 13.0, 100.0, 104.0])
    monkeypatch.setattr("ssmlab.tasks.segment.timeline.time.perf_counter", lambda: next(clock))
    timeline = Timeline(Progress())
    timeline.begin()
    timeline.update(1)
    timeline.update(2)
    timeline.begin()
    timeline.update(3)
    timeline.save(tmp_path)
    assert read_seconds(tmp_path / "seconds.json") == {0: 0.0, 1: 1.0, 2: 3.0, 3: 7.0}


def test_the_timeline_goes_on_with_the_iterations_of_the_checkpoint(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    for folder, seconds in ((checkpoint, {0: 0.0, 1: 1.0, 2: 3.0}), (tmp_path, {0: 0.0, 1: 2.0, 2: 4.0, 3: 8.0})):
        (folder / "seconds.json").write_text(json.dumps(seconds))
    timeline = Timeline(Progress())
    timeline.load(checkpoint)
    timeline.start("model", 8, 2)
    assert timeline.seconds == {0: 0.0, 1: 1.0, 2: 3.0}
    (checkpoint / "seconds.json").unlink()  # of a version that wrote it when a stretch began
    timeline.load(checkpoint)
    timeline.start("model", 8, 5)
    assert timeline.seconds == {0: 0.0, 1: 2.0, 2: 4.0, 3: 8.0, 5: 8.0}
    timeline.start("model", 8, 1)
    assert timeline.seconds == {0: 0.0, 1: 2.0}


def test_patches_in_2d_are_slices_of_volumes():
    held = []
    for seed in range(2):
        labels = torch.zeros(6, 12, 10, dtype=torch.uint8)
        labels[2:4, 3:9, 7] = 1
        values = torch.arange(720, dtype=torch.float32).view(1, 6, 12, 10)
        held.append((values + 1000 * seed, labels))
    for across, size in ((0, (12, 10)), (1, (6, 10)), (2, (6, 12))):
        part = patches(held, size, across=across, foreground=1.0)
        for found in (batch(part, 0), batch(part, 1)):
            for image, labels in zip(found["images"], found["labels"], strict=True):
                assert labels.max() == 1, "every slice that is centred on the foreground has some"
                volume, truth = held[int(image.max() >= 1000)]
                planes = [i for i, plane in enumerate(volume.unbind(across + 1)) if (plane - image).abs().max() < 0.1]
                assert len(planes) == 1 and torch.equal(truth.select(across, planes[0]), labels)
