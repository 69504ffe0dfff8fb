"""Dice and cross-entropy, overlaps, outlines, empty masks, and whole images."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssmlab.tasks.segment.metrics import ImageTable, constant_record, dice_differences, records_of
from ssmlab.tasks.segment.task import Segment, by_image, image_sums, in_total, mean_of, normalised, per_image
from ssmlab.tasks.shared.dice import IGNORE, deep_loss, dice_cross_entropy, overlaps, resized, scale_weights
from ssmlab.tasks.shared.surface import surface_distances

NAN = float("nan")


def example(k=3, shape=(2, 5, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], k, *shape[1:], generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, k, shape, generator=generator).to(torch.uint8)


def by_hand(logits, labels):
    p = logits.softmax(1)
    dice = []
    for b in range(len(logits)):
        for k in range(1, logits.shape[1]):
            counted, truth = labels[b] != IGNORE, labels[b] == k
            both, either = p[b, k][truth].sum(), p[b, k][counted].sum() + truth.sum()
            dice.append((2 * both + 1e-5) / (either + 1e-5))
    target = labels.long().masked_fill(labels == IGNORE, -100)
    return F.cross_entropy(logits, target, ignore_index=-100) + 1 - torch.stack(dice).mean()


@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 3, 4, 5)])
def test_the_loss_is_its_definition(shape):
    logits, labels = example(shape=shape)
    torch.testing.assert_close(dice_cross_entropy(logits, labels), by_hand(logits, labels).float())
    labels[:, 0] = IGNORE
    torch.testing.assert_close(dice_cross_entropy(logits, labels), by_hand(logits, labels).float())


def test_what_is_not_counted_has_no_gradient():
    logits, labels = example()
    labels[:, :2] = IGNORE
    logits.requires_grad_(True)
    dice_cross_entropy(logits, labels).backward()
    assert (logits.grad[:, :, :2] == 0).all() and (logits.grad[:, :, 2:] != 0).any()
    assert dice_cross_entropy(logits, torch.full_like(labels, IGNORE)).item() == pytest.approx(0, abs=1e-6)


def test_a_perfect_prediction_costs_nothing():
    _, labels = example()
    logits = 50.0 * F.one_hot(labels.long(), 3).movedim(-1, 1)
    assert dice_cross_entropy(logits, labels).item() < 1e-4


def test_weights_of_the_resolutions():
    assert scale_weights(1) == [1.0] and scale_weights(2) == [1.0, 0.0]
    assert scale_weights(4) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    logits, labels = example(shape=(2, 8, 8))
    small = F.avg_pool2d(logits, 2)
    smaller = F.avg_pool2d(logits, 4)
    expected = (2 * dice_cross_entropy(logits, labels) + dice_cross_entropy(small, labels[:, ::2, ::2])) / 3
    torch.testing.assert_close(deep_loss([logits, small, smaller], labels), expected)
    torch.testing.assert_close(deep_loss(logits, labels), dice_cross_entropy(logits, labels))


def test_labels_become_smaller_by_their_nearest_value():
    labels = torch.tensor([[[0, 0, 2, 255], [0, 0, 2, 255], [1, 1, 0, 0], [1, 1, 0, 0]]], dtype=torch.uint8)
    assert resized(labels, (2, 2)).tolist() == [[[0, 2], [1, 0]]]
    assert resized(labels, (4, 4)) is labels


def test_overlaps_count_pixels():
    truth = torch.tensor([0, 0, 1, 1, 2, 255])
    said = torch.tensor([0, 1, 1, 1, 0, 2])
    assert overlaps(said, truth, 3).tolist() == [[1, 1, 1], [2, 1, 0], [0, 0, 1]]


def test_empty_masks():
    # images x classes x (right, wrong, missed): ordinary, absent in both, marked where there is none, not found
    counts = np.array([[[9, 0, 0], [4, 2, 2]], [[9, 0, 0], [0, 0, 0]], [[9, 0, 0], [0, 3, 0]], [[9, 0, 0], [0, 0, 3]]])
    found = per_image(counts)
    np.testing.assert_allclose(found["dice"][:, 1], [2 / 3, NAN, 0, 0])
    np.testing.assert_allclose(found["iou"][:, 1], [0.5, NAN, 0, 0])
    np.testing.assert_allclose(found["precision"][:, 1], [2 / 3, NAN, 0, 0])
    np.testing.assert_allclose(found["recall"][:, 1], [2 / 3, NAN, NAN, 0])
    assert mean_of(found["dice"]) == pytest.approx(2 / 9)
    np.testing.assert_allclose(by_image(found["dice"]), [2 / 3, NAN, 0, 0])
    assert in_total(counts)["dice"][1] == pytest.approx(8 / (8 + 5 + 5))
    assert math.isnan(mean_of(found["dice"][1:2]))


def test_outlines():
    a = np.zeros((20, 20), bool)
    a[5:10, 5:10] = True
    same = surface_distances(a, a, (1, 1), 1.0)
    assert same == (1.0, 0.0)
    moved = surface_distances(np.roll(a, 3, 0), a, (2.0, 1.0), 1.0)
    assert moved.hausdorff95 == 6.0 and 0 < moved.normalised < 1  # three pixels of 2 millimetres
    assert surface_distances(np.roll(a, 3, 0), a, (2.0, 1.0), 6.0).normalised == 1.0
    nothing = np.zeros_like(a)
    assert surface_distances(nothing, a, (1, 1), 1.0) == (0.0, pytest.approx(math.hypot(20, 20)))
    assert all(math.isnan(value) for value in surface_distances(nothing, nothing, (1, 1), 1.0))
    counted = np.zeros_like(a)
    counted[:, :4] = True
    assert math.isnan(surface_distances(np.roll(a, 3, 0), a, (1, 1), 1.0, counted).normalised)
    assert surface_distances(~nothing, ~nothing, (1, 1), 1.0) == (1.0, 0.0)
    assert surface_distances(~nothing, a, (1, 1), 1.0).hausdorff95 > 5  # the image's edge is an outline too


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0), (1.0, 1.0, 1.0), (3.0, 0.8, 0.7)])
def test_outlines_agree_with_monai(spacing):
    metrics = pytest.importorskip("monai.metrics")
    rng, dims = np.random.default_rng(0), len(spacing)
    for share in (0.1, 0.4, 0.8):
        a, b = (np.kron(rng.random((4, 5, 3)[:dims]) < share, np.ones((5,) * dims, bool)) for _ in range(2))
        ours = surface_distances(a, b, spacing, 1.5)
        pair = [torch.from_numpy(np.stack([~m, m]))[None].float() for m in (a, b)]
        theirs = metrics.compute_hausdorff_distance(*pair, include_background=False, percentile=95, spacing=spacing)
        assert ours.hausdorff95 == pytest.approx(theirs.item(), abs=1e-5)
        near = metrics.compute_surface_dice(*pair, class_thresholds=[1.5], include_background=False, spacing=spacing)
        assert ours.normalised == pytest.approx(near.item(), abs=1e-5)
        dice = metrics.compute_dice(*pair, include_background=False).item()
        counts = overlaps(torch.from_numpy(a).long(), torch.from_numpy(b).long(), 2).numpy()[None]
        assert per_image(counts)["dice"][0, 1] == pytest.approx(dice, abs=1e-6)


def test_normalisation():
    image = torch.arange(24, dtype=torch.uint8).view(2, 3, 4) * 10
    by_set = normalised(image, (0.5, 0.25), (0.1, 0.2))
    torch.testing.assert_close(by_set[1], (image[1] / 255 - 0.25) / 0.2)
    alone = normalised(image.float(), (), ())
    torch.testing.assert_close(alone.flatten(1).mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(alone.flatten(1).std(1), torch.ones(2))
    assert normalised(torch.zeros(1, 2, 2), (), ()).abs().max() == 0


class Brightness(nn.Module):
    """Says foreground where an image is bright."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, x):
        return torch.stack([-x[:, 0], x[:, 0]], 1) * self.scale


def task(images, labels):
    def windows(model, image):
        return model(image[None])[0].softmax(0)

    return Segment(
        classes=("no", "yes"), mean=(0.5,), std=(0.25,), windows=windows, fetch=lambda i: (images[i], labels[i], ())
    )


def test_whole_images_of_different_sizes():
    images = [torch.zeros(1, 4, 6, dtype=torch.uint8), torch.zeros(1, 5, 3, dtype=torch.uint8)]
    images[0][0, :2], images[1][0, 0] = 255, 255
    labels = [(image[0] > 0).to(torch.uint8) for image in images]
    labels[1][1] = 1  # a row is missed
    labels[1][4] = IGNORE
    found = task(images, labels)
    model = Brightness().eval()
    loss, sums = found.loss(model, {"cases": torch.tensor([0, 1]), "labels": torch.zeros(2)})
    assert sums.shape == (2, 8) and sums[:, -1].tolist() == [24, 12]
    numbers = found.validation(sums.detach().numpy())
    assert numbers["loss"] == pytest.approx(loss.item())
    assert numbers["dice"] == pytest.approx((1 + 2 * 3 / (2 * 3 + 3)) / 2)
    assert found.count_correct(sums, labels[0]) == (0, 0)
    assert (found.primary_metric, found.higher_is_better) == ("dice", True)


def test_patches_train():
    model = Brightness()
    images = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = (images[:, 0] > 0).to(torch.uint8)
    found = task([], [])
    loss, logits = found.loss(model, {"images": images, "labels": labels})
    loss.backward()
    assert logits.shape == (2, 2, 4, 4) and model.scale.grad < 0
    torch.testing.assert_close(loss, dice_cross_entropy(logits, labels))


def test_sums_of_probabilities():
    probabilities = torch.tensor([[[0.9, 0.2]], [[0.1, 0.8]]])
    sums = image_sums(probabilities, torch.tensor([[0, IGNORE]], dtype=torch.uint8))
    assert sums[:6].tolist() == [1, 0, 0, 0, 0, 0]
    assert sums[6].item() == pytest.approx(-math.log(0.9)) and sums[7] == 1


def test_patches_are_evaluated_as_images_are():
    """A dataset of a user's own has (image, labels) in its validation part too."""
    images = [
        torch.randint(0, 256, (1, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(i)) for i in (0, 1)
    ]
    labels = [(image[0] > 99).to(torch.uint8) for image in images]
    found, model = task(images, labels), Brightness().eval()
    loss, sums = found.loss(model, {"cases": torch.tensor([0, 1]), "labels": torch.zeros(2)})
    batch = found.collate([(found.prepare(image), truth) for image, truth in zip(images, labels, strict=True)])
    assert batch["images"].shape == (2, 1, 4, 6) and batch["labels"].dtype == torch.uint8
    again, same = found.loss(model, batch)
    assert torch.allclose(again, loss) and torch.allclose(same, sums) and torch.equal(found.outputs(model, batch), same)
    _, logits = found.loss(model.train(), batch)
    assert logits.shape == (2, 2, 4, 6), "in training as before"


def test_the_dice_of_one_class_everywhere_is_what_marking_it_reaches():
    """Compared with predictions of that class, pixel by pixel, whatever the network said."""
    random = np.random.default_rng(0)
    truth = torch.from_numpy(random.choice(3, (5, 6, 6), p=(0.6, 0.3, 0.1)))
    truth[3], truth[4, 2:] = 0, 255  # nothing but background; pixels that do not count
    said = torch.from_numpy(random.choice(3, (5, 6, 6)))

    def counts(predicted):
        return np.stack([overlaps(p, t, 3).numpy() for p, t in zip(predicted, truth, strict=True)])

    (record,) = constant_record(ImageTable("abcde", ("none", "one", "two"), counts(said), {}))
    reached = {k: mean_of(per_image(counts(torch.full_like(truth, k)))["dice"]) for k in (1, 2)}
    assert record.class_ == "one" and record.value == pytest.approx(reached[1]) and reached[1] > reached[2]
    assert constant_record(ImageTable("a", ("none",), counts(said)[:1, :1], {})) == []


def test_patients_are_the_cases_of_masks(tmp_path):
    """Ten patients of four images with one Dice each: groups are written, read, joined, drawn and counted."""
    random = np.random.default_rng(0)
    ids = [f"{i}.png" for i in range(40)]
    patients = [f"p{i // 4}" for i in range(40)]
    jobs = []
    for label in ("a", "b"):
        right = np.repeat(random.integers(20, 90, 10), 4)
        counts = np.stack([np.stack([right, 100 - right, 100 - right], 1)] * 2, 1)
        table = ImageTable(ids, ("none", "one"), counts, {}, patients)
        halves = [ImageTable(ids[s], ("none", "one"), counts[s], {}, patients[s]) for s in (slice(20), slice(20, 40))]
        assert ImageTable.joined(halves[::-1], ids).groups == patients
        (tmp_path / label).mkdir()
        table.write(tmp_path / label / "images.csv", {"fold": [0] * 40})
        read = ImageTable.read(tmp_path / label / "images.csv")
        assert read.groups == patients and np.array_equal(read.dice, table.dice)
        jobs.append(SimpleNamespace(folder=tmp_path / label, model=SimpleNamespace(label=label)))
    whole = {(r.metric, r.class_): r for r in records_of(table, 500)}["dice", None]
    alone = {(r.metric, r.class_): r for r in records_of(ImageTable(ids, ("none", "one"), counts, {}), 500)}
    assert whole.value == pytest.approx(alone["dice", None].value)
    assert np.diff(whole.spread) > 1.5 * np.diff(alone["dice", None].spread)
    found = {(r.metric, r.class_): r for _, r in dice_differences(jobs, 500)}
    assert found["dice_difference", None].n == 10 and found["p_of_dice_difference", "Wilcoxon"].value > 0.001
