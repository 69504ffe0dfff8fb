"""Whether probabilities mean what they say: temperature, calibration error, Brier score, thresholds."""

from dataclasses import dataclass

import numpy as np

BINS = 15


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities of logits (n, classes)."""
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def sigmoid_log(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p and log (1 - p) of the probabilities of independent labels."""
    return -np.logaddexp(0, -logits), -np.logaddexp(0, logits)


def fit_temperature(logits, labels) -> float:
    """The factor 1 / T of logits that makes them likeliest, as T; of the validation part.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2. The order of classes and of cases does not change.

    Args:
        logits: (n, classes) with labels (n,), or (n, labels) with truths (n, labels) of several labels an image.
    Returns:
        from 0.05 to 20; 1 where there is nothing to fit.
    """
    from scipy.optimize import minimize_scalar

    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if not len(logits):
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if labels.ndim == 1:
            return float(-log_softmax(scaled)[np.arange(len(labels)), labels].mean())
        yes, no = sigmoid_log(scaled)
        return float(-np.where(labels, yes, no).mean())

    bounds = np.log(0.05), np.log(20.0)
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def calibration_statistics(confidence, correct, bins: int = BINS) -> np.ndarray:
    """What adds up to a calibration error: for every case its count, right minus confidence, and the variance of that

    if it is right as often as it says, in the columns of its bin: (n, 3 bins). Bin i holds confidences in
    (i / bins, (i + 1) / bins].
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    found, rows = np.zeros((len(correct), 3, bins)), np.arange(len(correct))
    found[rows, 0, number] = 1
    found[rows, 1, number] = correct - confidence
    found[rows, 2, number] = confidence * (1 - confidence)
    return found.reshape(len(correct), 3 * bins)


def calibration_error(sums: np.ndarray) -> np.ndarray:
    """The expected calibration error of sums (..., 3 bins) of `calibration_statistics`, without the bias of few cases.

    In every bin the distance of accuracy and mean confidence, weighted by its cases (Guo et al. 2017, eq. 3). Of few
    cases such a distance is never zero, even where every probability is right: what it is too large by on average,
    E|N(g, s)| - g with the noise s of the bin's cases and g the distance less that noise, is taken off.
    """
    from scipy.special import ndtr

    sums = np.asarray(sums, np.float64)
    count, gap, noise = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    cases = np.maximum(count, 1e-300)
    plain, deviation = np.abs(gap) / cases, np.sqrt(np.maximum(noise, 0)) / cases
    less = np.sqrt(np.maximum(plain**2 - deviation**2, 0))
    safe = np.maximum(deviation, 1e-300)
    ratio = np.minimum(less / safe, 40.0)
    excess = safe * (np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) - 2 * ratio * ndtr(-ratio))
    weights = count / np.maximum(count.sum(-1, keepdims=True), 1e-300)
    return np.maximum((weights * (plain - np.where(count > 0, excess, 0))).sum(-1), 0.0)


def brier(probabilities, labels) -> np.ndarray:
    """The squared distance of probabilities from the truth for every case (n,): summed over classes, of two halved.

    Args:
        probabilities: (n, classes) with labels (n,); or (n, labels) with truths (n, labels), whose mean is taken.
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if labels.ndim == 2:
        return ((probabilities - labels) ** 2).mean(1)
    truth = np.eye(probabilities.shape[1])[labels.astype(int)]
    return ((probabilities - truth) ** 2).sum(1) / (2 if probabilities.shape[1] == 2 else 1)


@dataclass(frozen=True)
class Reliability:
    """Of every bin with cases: mean confidence, share that is right, and how many there are."""

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


def reliability(confidence, correct, bins: int = 10) -> Reliability:
    """The points of a reliability diagram: bins of equal width, those without cases left out."""
    sums = calibration_statistics(confidence, correct, bins).sum(0).reshape(3, bins)
    number = np.clip(np.ceil(np.asarray(confidence, np.float64) * bins).astype(int) - 1, 0, bins - 1)
    mean = np.bincount(number, confidence, bins) / np.maximum(sums[0], 1)
    some = sums[0] > 0
    return Reliability(mean[some], (mean + sums[1] / np.maximum(sums[0], 1))[some], sums[0][some].astype(int))


def choose_threshold(truth, scores, sensitivity: float = 0.0) -> float:
    """The score from which a case is called positive, chosen on a validation part.

    Args:
        truth: booleans (n,). scores: (n,), higher for positive cases.
        sensitivity: the highest threshold that finds at least this share of the positive cases; 0: the one with the
            largest sensitivity + specificity - 1 (Youden 1950).
    Returns:
        a threshold halfway between two scores, so that neither depends on rounding; 0.5 where a side has no cases.
    """
    truth, scores = np.asarray(truth, bool), np.asarray(scores, np.float64)
    if not truth.any() or truth.all():
        return 0.5
    values = np.unique(scores)
    found = np.array([(scores[truth] >= value).mean() for value in values])
    spared = np.array([(scores[~truth] < value).mean() for value in values])
    if sensitivity:
        place = int(np.flatnonzero(found >= sensitivity)[-1])
    else:
        place = int(np.argmax(found + spared))
    return float((values[place] + values[place - 1]) / 2 if place else values[0])
