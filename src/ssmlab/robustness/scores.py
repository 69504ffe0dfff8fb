"""From a model's answers about images to its scores, with bootstrap intervals. numpy only.

Calibration: the expected calibration error over 15 bins of equal width (Guo et al. 2017, arXiv:1706.04599, eq. 3).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ssmlab.core.record import Record

BINS = 15
FEW = 5  # with no more classes, every answer is among the first five
ORIGINAL = "original"
AT_ONCE = 100  # resamples
CONFIDENCE = 0.95
BIASED = ("ece", "mean_ece")


@dataclass(frozen=True)
class Outcome:
    """A model's answers about n images under one condition, (n,) each.

    Args:
        predicted: the class. correct: whether it is the true one. in_five: whether that is among the first five.
        confidence: the probability of the predicted class.
    """

    predicted: np.ndarray
    correct: np.ndarray
    in_five: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A model's answers under all conditions.

    Args:
        outcomes: name of the condition -> one outcome for every severity, of the same images.
        classes: how many there are.
        apart: conditions that are not part of the means: attacks.
        reference: name -> error of the model that errors are divided by, "original" among them; {} for none.
    """

    outcomes: dict[str, list[Outcome]]
    classes: int
    apart: tuple[str, ...] = ()
    reference: Mapping[str, float] = field(default_factory=dict)

    @property
    def changed(self) -> list[str]:
        """The transformations, over which means are taken."""
        return [name for name in self.outcomes if name not in (ORIGINAL, *self.apart)]


def _gaps(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Right minus confidence in the column of the image's bin, (n, 15): bin i holds confidences in (i/15, (i+1)/15]."""
    number = np.clip(np.ceil(confidence.astype(np.float64) * BINS).astype(int) - 1, 0, BINS - 1)
    found = np.zeros((len(correct), BINS), np.float32)
    found[np.arange(len(correct)), number] = correct.astype(np.float32) - confidence
    return found


def scores(answers: Answers, *, resamples: int = 1000, seed: int = 0) -> list[Record]:
    """Every score of a model, with bootstrap intervals over images: of the percentiles, for ECE reflected at the value,

    since the error of few images is too large on average, and once more so in each resample.

    The same images are drawn for all conditions, so a drop and a mean are resampled as a whole. For a transformation
    with several severities, a score is the mean over them. `class_` is the transformation; None for means over all.
    """
    names = list(answers.outcomes)
    n = len(answers.outcomes[names[0]][0].correct)
    whole = _measures(answers, np.ones((1, n), np.float32))
    drawn: dict[tuple[str, str | None], list[np.ndarray]] = {key: [] for key in whole}
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, AT_ONCE):
        count = min(AT_ONCE, resamples - start)
        chosen = rng.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        weights = np.bincount(chosen.ravel(), minlength=count * n).reshape(count, n)  # how often each image is drawn
        for key, values in _measures(answers, weights.astype(np.float32)).items():
            drawn[key].append(values)
    records = []
    for (metric, class_), values in whole.items():
        low, high = np.quantile(np.concatenate(drawn[metric, class_]), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        if metric in BIASED:
            # The whole reflected interval may lie below the value, which is too large itself; a value lies in its own.
            low, high = np.clip(2 * values[0] - high, 0.0, values[0]), max(2 * values[0] - low, values[0])
        records.append(
            Record(
                metric=metric,
                class_=class_,
                value=float(values[0]),
                unit="fraction",
                n=n,
                spread=(float(low), float(high)),
            )
        )
    return records


def _measures(answers: Answers, weights: np.ndarray) -> dict[tuple[str, str | None], np.ndarray]:
    """(metric, transformation) -> its value under every row of weights (r, n)."""
    n = weights.shape[1]
    original = answers.outcomes[ORIGINAL][0]
    found: dict[tuple[str, str | None], np.ndarray] = {}
    for name, outcomes in answers.outcomes.items():
        found["accuracy", name] = _mean(weights, [o.correct for o in outcomes])
        if answers.classes > FEW:
            found["top5_accuracy", name] = _mean(weights, [o.in_five for o in outcomes])
        gaps = [np.abs(weights @ _gaps(o.confidence, o.correct)).sum(1) / n for o in outcomes]
        found["ece", name] = np.mean(gaps, axis=0)
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


def _mean(weights: np.ndarray, truths: list[np.ndarray]) -> np.ndarray:
    return np.mean([weights @ truth.astype(np.float32) for truth in truths], axis=0) / weights.shape[1]


def mean_right(answers: Answers) -> np.ndarray:
    """The fraction of the changed versions of every image that are classified correctly, (n,)."""
    per_name = [np.mean([o.correct for o in answers.outcomes[name]], axis=0) for name in answers.changed]
    return np.mean(per_name, axis=0)
