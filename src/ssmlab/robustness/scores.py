"""From a model's answers about images to its scores, with intervals over images. numpy and scipy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ssmlab.core.record import Record
from ssmlab.core.statistics.calibration import calibration_error, calibration_statistics
from ssmlab.core.statistics.intervals import fraction_interval
from ssmlab.core.statistics.ranks import Area, mean_area, roc_area, weighted_roc_area
from ssmlab.core.statistics.resampling import interval_of_draws

FEW = 5  # with no more classes, every answer is among the first five
ORIGINAL = "original"
AT_ONCE = 100  # resamples
FRACTIONS = (
    "accuracy", "top5_accuracy", "agreement", "mean_agreement", "mean_corruption_error", "label_auc", "label_accuracy",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A model's answers about n images under one condition, (n,) each.

    Args:
        predicted: the class. correct: whether it is the true one. in_five: whether that is among the first five.
        confidence: the probability of the predicted class.
        likely: of images with several labels the probability of each, (n, labels); correct is the share of labels that
            are decided rightly at 1/2 then, and the others say nothing.
    """

    predicted: np.ndarray
    correct: np.ndarray
    in_five: np.ndarray
    confidence: np.ndarray
    likely: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A model's answers under all conditions.

    Args:
        outcomes: name of the condition -> one outcome for every severity, of the same images.
        classes: how many there are.
        apart: conditions that are not part of the means: attacks.
        reference: name -> error of the model that errors are divided by, "original" among them; {} for none.
        truths: of images with several labels, (n, labels).
    """

    outcomes: dict[str, list[Outcome]]
    classes: int
    apart: tuple[str, ...] = ()
    reference: Mapping[str, float] = field(default_factory=dict)
    truths: np.ndarray | None = None

    @property
    def changed(self) -> list[str]:
        """The transformations, over which means are taken."""
        return [name for name in self.outcomes if name not in (ORIGINAL, *self.apart)]


def scores(answers: Answers, *, resamples: int = 1000, seed: int = 0) -> list[Record]:
    """Every score of a model with its interval over images, see `core.statistics.resampled_interval`.

    The same images are drawn for all conditions, so a drop and a mean are resampled as a whole. For a transformation
    with several severities, a score is the mean over them. `class_` is the transformation; None for means over all.
    Of several labels an image the mean area under the ROC curve over labels takes the place of the accuracy.
    """
    names = list(answers.outcomes)
    measures = _measures if answers.truths is None else _label_measures
    n = len(answers.outcomes[names[0]][0].correct)
    whole = measures(answers, np.ones((1, n), np.float32))
    drawn: dict[tuple[str, str | None], list[np.ndarray]] = {key: [] for key in whole}
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, AT_ONCE):
        count = min(AT_ONCE, resamples - start)
        chosen = rng.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        weights = np.bincount(chosen.ravel(), minlength=count * n).reshape(count, n)  # how often each image is drawn
        for key, values in measures(answers, weights.astype(np.float32)).items():
            drawn[key].append(values)
    records = []
    for (metric, class_), values in whole.items():
        value, draws = float(values[0]), np.concatenate(drawn[metric, class_])
        if metric in FRACTIONS:  # has a width where all images agree
            interval = fraction_interval(value, float(np.nanvar(draws)) * n / max(n - 1, 1), max(n - 1, 1), n)
        else:
            bounds = (0.0 if "ece" in metric else -1.0, np.inf)
            interval = interval_of_draws(value, draws, n, rng, bounds=bounds)
        spread = (interval.low, interval.high)
        records.append(Record(metric=metric, class_=class_, value=value, unit="fraction", n=n, spread=spread))
    return records


def _measures(answers: Answers, weights: np.ndarray) -> dict[tuple[str, str | None], np.ndarray]:
    """(metric, transformation) -> its value under every row of weights (r, n)."""
    original = answers.outcomes[ORIGINAL][0]
    found: dict[tuple[str, str | None], np.ndarray] = {}
    for name, outcomes in answers.outcomes.items():
        found["accuracy", name] = _mean(weights, [o.correct for o in outcomes])
        if answers.classes > FEW:
            found["top5_accuracy", name] = _mean(weights, [o.in_five for o in outcomes])
        calibrations = [calibration_statistics(o.confidence, o.correct).astype(np.float32) for o in outcomes]
        found["ece", name] = np.mean([calibration_error(weights @ each) for each in calibrations], axis=0)
        if name != ORIGINAL:
            found["agreement", name] = _mean(weights, [o.predicted == original.predicted for o in outcomes])
            found["accuracy_drop", name] = found["accuracy", ORIGINAL] - found["accuracy", name]
    for metric, over in (("accuracy", "mean_corruption_error"), ("accuracy_drop", "mean_drop"),
                         ("agreement", "mean_agreement"), ("ece", "mean_ece")):  # fmt: skip
        mean = np.mean([found[metric, name] for name in answers.changed], axis=0)
        found[over, None] = 1 - mean if metric == "accuracy" else mean
    if answers.reference:
        # mCE and relative mCE (Hendrycks & Dietterich 2019, section 4): errors, and rises of the error, over AlexNet's
        clean = answers.reference[ORIGINAL]
        of_name = {name: answers.reference[name] for name in answers.changed}
        errors = [(1 - found["accuracy", name]) / error for name, error in of_name.items()]
        rises = [found["accuracy_drop", name] / (error - clean) for name, error in of_name.items()]
        found |= {("mce", None): np.mean(errors, axis=0), ("relative_mce", None): np.mean(rises, axis=0)}
    return found


def _label_measures(answers: Answers, weights: np.ndarray) -> dict[tuple[str, str | None], np.ndarray]:
    """The same of images with several labels."""
    truths, found = np.asarray(answers.truths) > 0, dict[tuple[str, str | None], np.ndarray]()
    known = [k for k in range(truths.shape[1]) if 0 < truths[:, k].sum() < len(truths)]
    said = {name: [np.asarray(o.likely) for o in outcomes] for name, outcomes in answers.outcomes.items()}
    for name, every in said.items():
        areas = [weighted_roc_area(truths[:, k], likely[:, k], weights) for likely in every for k in known]
        if areas:
            found["label_auc", name] = np.mean(areas, axis=0)
        found["label_accuracy", name] = _mean(weights, [o.correct for o in answers.outcomes[name]])
        if name != ORIGINAL:
            same = [((likely >= 0.5) == (said[ORIGINAL][0] >= 0.5)).mean(1) for likely in every]
            found["agreement", name] = _mean(weights, same)
            if areas:
                found["label_auc_drop", name] = found["label_auc", ORIGINAL] - found["label_auc", name]
    over = [("label_auc", "mean_corruption_error"), ("label_auc_drop", "mean_auc_drop")] if known else []
    for metric, whole in (*over, ("agreement", "mean_agreement")):
        mean = np.mean([found[metric, name] for name in answers.changed], axis=0)
        found[whole, None] = 1 - mean if metric == "label_auc" else mean
    return found


def _mean(weights: np.ndarray, truths: list[np.ndarray]) -> np.ndarray:
    return np.mean([weights @ truth.astype(np.float32) for truth in truths], axis=0) / weights.shape[1]


def area_under_changes(seeds: Sequence[Answers]) -> Area | None:
    """Of images with several labels the mean area over transformations, their severities and labels, of all seeds;
    None where no label is on some images and missing on others.

    Args:
        seeds: a model's answers about the same images, trained with each seed.
    """
    truths = np.asarray(seeds[0].truths) > 0
    known = [k for k in range(truths.shape[1]) if 0 < truths[:, k].sum() < len(truths)]

    def area(name: str, at: int) -> Area:
        likely = np.stack([np.asarray(one.outcomes[name][at].likely) for one in seeds])
        return mean_area(roc_area(truths[:, k], likely[..., k]) for k in known)

    if not known:
        return None
    every = {name: range(len(seeds[0].outcomes[name])) for name in seeds[0].changed}
    return mean_area(mean_area(area(name, at) for at in severities) for name, severities in every.items())


def mean_right(answers: Answers) -> np.ndarray:
    """The fraction of the changed versions of every image that are classified correctly, (n,)."""
    per_name = [np.mean([o.correct for o in answers.outcomes[name]], axis=0) for name in answers.changed]
    return np.mean(per_name, axis=0)
