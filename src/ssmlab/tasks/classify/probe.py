"""Logistic regression on the features of a frozen network: the baseline of every comparison of backbones.

The features are what the network's classifier reads, for training images as they are. They are standardised, and C is
the one of `GRID` with the lowest cross-entropy on the validation part; scikit-learn's solution is written into the
classifier, so that the model is saved, tested and used as any other.
"""

import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from ssmlab.core.device import ComputeConfig
from ssmlab.core.errors import ModelError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.tasks.classify.several import label_loss
from ssmlab.tasks.shared.metrics import loss_and_accuracy
from ssmlab.training.fit import FitResult
from ssmlab.training.predict import autocast

GRID = tuple(10.0**power for power in range(-5, 3))
BATCH = 64


def fit_probe(
    network: Any, task: Any, train: Any, val: Any, *, balanced: bool, compute: ComputeConfig, label: str,
    progress: Progress | None = None,
) -> FitResult:  # fmt: skip
    """Fit the classifier of a network, whose other weights stay as they are.

    Args:
        train, val: as `fit` takes them, with arrays "images" and "labels"; labels (n,), or 0 and 1 (n, classes).
        balanced: every class weighs the same.
    Raises:
        ModelError: the network's classifier is no single linear layer.
    """
    classifier = network.get_classifier() if hasattr(network, "get_classifier") else None
    if not isinstance(classifier, nn.Linear):
        raise ModelError(
            f"{label}: logistic_regression needs a linear classifier, {type(network).__name__} ends in "
            f"{type(classifier).__name__}; train it with training.freeze=backbone instead"
        )
    begin = time.perf_counter()
    network.to(compute.device).eval()
    features = [_features(network, classifier, task, part, compute, label, progress) for part in (train, val)]
    labels = [np.asarray(part.arrays["labels"]) for part in (train, val)]
    mean, std = features[0].mean(0), features[0].std(0)
    std = np.where(std > 0, std, 1.0)
    scaled = [(each - mean) / std for each in features]
    several = labels[0].ndim == 2
    best: tuple[float, float, np.ndarray, np.ndarray] | None = None
    for c in GRID:
        weight, bias = _solved(scaled[0], labels[0], c, len(task.classes), balanced)
        logits = scaled[1] @ weight.T + bias
        loss = label_loss(logits, labels[1]) if several else loss_and_accuracy(logits, labels[1])["loss"]
        if best is None or loss < best[0]:
            best = loss, c, weight, bias
    assert best is not None
    _, c, weight, bias = best
    network.requires_grad_(False)
    classifier.requires_grad_()  # what is counted as trained
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(weight / std))
        if classifier.bias is None:
            raise ModelError(f"{label}: logistic_regression needs a classifier with a bias")
        classifier.bias.copy_(torch.from_numpy(bias - weight @ (mean / std)))
    found = [Record(metric="probe_c", value=c, unit="count", n=len(labels[0]))]
    return FitResult(model=network, history=[], seconds=time.perf_counter() - begin, steps=0, epoch=0.0, found=found)


def _features(network, classifier, task, part, compute, label, progress) -> np.ndarray:
    """What the classifier reads, (n, features), float64."""
    seen: list[torch.Tensor] = []
    handle = classifier.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].flatten(1).float().cpu())
    )
    progress = progress or Progress()
    progress.start(f"{label}: features", len(part))
    try:
        with torch.inference_mode(), autocast(compute):
            for start in range(0, len(part), BATCH):
                rows = list(range(start, min(start + BATCH, len(part))))
                images = part.__getitems__(rows)["images"].to(compute.device)
                network(task.prepare(images))
                progress.update(rows[-1] + 1)
    finally:
        handle.remove()
        progress.stop()
    return torch.cat(seen).double().numpy()


def _solved(x: np.ndarray, labels: np.ndarray, c: float, classes: int, balanced: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weights (classes, features) and biases of scikit-learn's solution, in the order of the classes."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    how: dict[str, Any] = {"C": c, "max_iter": 2000, "class_weight": "balanced" if balanced else None}
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, -1e4 if labels.ndim == 1 else -9.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if labels.ndim == 2:
            for k in range(classes):
                if 0 < labels[:, k].sum() < len(labels):
                    model = LogisticRegression(**how).fit(x, labels[:, k])
                    weight[k], bias[k] = model.coef_[0], model.intercept_[0]
            return weight, bias
        model = LogisticRegression(**how).fit(x, labels)
    if len(model.classes_) == 2:  # one row for both
        half, shift = model.coef_[0] / 2, model.intercept_[0] / 2
        weight[model.classes_], bias[model.classes_] = np.stack([-half, half]), np.array([-shift, shift])
    else:
        weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
    return weight, bias
