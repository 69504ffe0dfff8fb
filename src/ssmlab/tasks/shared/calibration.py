"""What a validation part says about a classifier's probabilities, kept with the model: temperature and threshold."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmlab.core.errors import UserError
from ssmlab.core.statistics.calibration import choose_threshold, fit_temperature, log_softmax, sigmoid_log

KEY = "calibration"  # of preprocess.json


def calibration_of(
    logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], positive: str = "", sensitivity: float = 0.0
) -> dict[str, Any]:
    """Temperature of the logits of a validation part, and the threshold of two classes or of several labels an image.

    Args:
        logits: (n, classes). labels: (n,), or (n, classes) of several labels an image.
        positive: of two classes; the second if empty.
        sensitivity: the threshold finds at least this share; 0: Youden's.
    Returns:
        temperature, n, rule, and threshold: a number of the positive class, or one for every label. Thresholds are of
        probabilities after the temperature.
    """
    labels = np.asarray(labels)
    found: dict[str, Any] = {"temperature": fit_temperature(logits, labels), "n": len(labels)}
    rule = f"a sensitivity of {sensitivity:g}" if sensitivity else "Youden's index"
    likely = probabilities_of(logits, found, several=labels.ndim == 2)
    if labels.ndim == 2:
        limits = [choose_threshold(labels[:, k], likely[:, k], sensitivity) for k in range(labels.shape[1])]
        found |= {"threshold": limits, "rule": rule}
    elif len(classes) == 2:
        one = classes.index(positive) if positive else 1
        limit = choose_threshold(labels == one, likely[:, one], sensitivity)
        found |= {"threshold": limit, "positive": classes[one], "rule": rule}
    return found


def probabilities_of(
    logits: np.ndarray, calibration: Mapping[str, Any] | None = None, *, several: bool = False
) -> np.ndarray:
    """Probabilities of logits (n, classes); with a calibration after division by its temperature.

    Args:
        several: of labels that are independent of each other.
    """
    logits = np.asarray(logits, np.float64) / (calibration["temperature"] if calibration else 1.0)
    return np.exp(sigmoid_log(logits)[0] if several else log_softmax(logits))


def stored_calibration(about: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """The calibration in a model's preprocess.json.

    Args:
        what: is asked for, with the model's name, for the message.
    Raises:
        UserError: there is none.
    """
    found = about.get(KEY)
    if not found:
        raise UserError(
            f"{what}: the model holds no calibration; runs of classification make one on their validation part, train "
            "it again"
        )
    return found


def by_threshold(likely: np.ndarray, calibration: Mapping[str, Any], classes: tuple[str, ...]) -> np.ndarray:
    """Classes (n,) that the threshold of two says, of probabilities (n, 2) after the temperature."""
    one = classes.index(calibration["positive"])
    return np.where(likely[:, one] >= calibration["threshold"], one, 1 - one)


def check_threshold(calibration: Mapping[str, Any], classes: tuple[str, ...]) -> None:
    """That there is a threshold.

    Raises:
        UserError: there is none: the model has more classes.
    """
    if "positive" not in calibration:
        raise UserError(f"a threshold is of two classes, the model has {len(classes)}; leave it out")
