"""What a plot draws, computed from a run: no matplotlib here, so that every number can be tested by itself."""

from dataclasses import dataclass

import numpy as np

from ssmlab.reports.primary_metric import interval_of
from ssmlab.reports.run_folder import Predictions, Run

_MOST_POINTS = 300
_MOST_LINES = 8  # more learning curves than these make a band that nobody can read
_BINS = 40


@dataclass(frozen=True)
class Line:
    """One learning curve: model, "train" or "val", and the name of its x axis ("epoch" or "step").

    seed: None for a mean over seeds; `low` and `high` are then their smallest and largest values.
    """

    label: str
    split: str
    seed: int | None
    axis: str
    x: np.ndarray
    y: np.ndarray
    repeated: bool
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class Roc:
    """A ROC curve; `classes` names the positive class, or is "" for the mean of one against the rest."""

    fpr: np.ndarray
    tpr: np.ndarray
    area: float
    classes: str


@dataclass(frozen=True)
class Speed:
    """The primary metric with its interval, and images, patches or tokens per second with their range."""

    label: str
    accuracy: float
    low: float
    high: float
    speed: float
    speed_low: float
    speed_high: float
    rated: str = "images"


def shorten(name: str, length: int = 18) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def curves(run: Run, metric: str) -> list[Line]:
    """Learning curves by model, part and seed; a step that was repeated after a resume counts once, the last time."""
    points: dict[tuple, dict[int, float]] = {}
    epochs: dict[tuple, dict[int, float]] = {}
    for r in run.records:
        if r.step is None or r.class_ is not None or r.model not in run.titles:
            continue
        if r.metric == metric and r.split in ("train", "val"):
            points.setdefault((r.model, r.split, r.seed), {})[r.step] = r.value
        elif r.metric == "epoch":
            epochs.setdefault((r.model, r.seed), {})[r.step] = r.value
    by_epoch = not run.task.by_updates and all(len(epochs.get((m, seed), {})) > 1 for m, _, seed in points)
    lines = []
    for (label, split, seed), values in sorted(points.items(), key=lambda item: run.labels.index(item[0][0])):
        steps = np.array(sorted(values))
        y = np.array([values[step] for step in steps], dtype=float)
        x = steps.astype(float)
        if by_epoch:
            known = epochs[label, seed]
            x = np.interp(steps, [0, *sorted(known)], [0.0, *(known[step] for step in sorted(known))])
        keep = np.isfinite(y)
        if keep.any():
            x, y = x[keep], y[keep]
            if len(x) > _MOST_POINTS:  # more than a plot can show would only make the page heavy: means of neighbours
                near = np.array_split(np.arange(len(x)), _MOST_POINTS)
                x, y = np.array([x[g].mean() for g in near]), np.array([y[g].mean() for g in near])
            repeated = sum(key[:2] == (label, split) for key in points) > 1
            lines.append(Line(label, split, seed, "epoch" if by_epoch else "step", x, y, repeated))
    return lines


def legible(lines: list[Line]) -> list[Line]:
    """The same curves where they are few; of many the means over seeds, of many models on the validation part alone."""
    if len(lines) <= _MOST_LINES:
        return lines
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.label, line.split), []).append(line)
    validated = {split for _, split in groups} == {"train", "val"}
    if len(groups) > _MOST_LINES and validated:
        groups = {key: group for key, group in groups.items() if key[1] == "val"}
    means = []
    for (label, split), group in groups.items():
        axis, x = group[0].axis, group[0].x
        if all(np.array_equal(line.x, x) for line in group) and len(x) <= _BINS:
            values = np.array([line.y for line in group])
        else:  # seeds that share no points meet in bins
            edges = np.linspace(min(line.x[0] for line in group), max(line.x[-1] for line in group), _BINS + 1)
            x, values = (edges[:-1] + edges[1:]) / 2, np.full((len(group), _BINS), np.nan)
            for row, line in zip(values, group, strict=True):
                place = np.clip(np.searchsorted(edges, line.x, "right") - 1, 0, _BINS - 1)
                count = np.bincount(place, minlength=_BINS)
                row[count > 0] = np.bincount(place, line.y, _BINS)[count > 0] / count[count > 0]
            some = np.isfinite(values).any(0)
            x, values = x[some], values[:, some]
        mean, low, high = np.nanmean(values, 0), np.nanmin(values, 0), np.nanmax(values, 0)
        means.append(Line(label, split, None, axis, x, mean, len(group) > 1, low, high))
    return means


def best_validation(lines: list[Line], label: str, *, higher: bool) -> tuple[float, float] | None:
    """Where a model's validation curve is best: (epoch or step, value); the best over its seeds."""
    found = [
        (x, y)
        for line in lines
        if line.label == label and line.split == "val"
        for x, y in zip(line.x, line.y, strict=True)
    ]
    if not found:
        return None
    return (max if higher else min)(found, key=lambda point: point[1])


def roc(run: Run, label: str) -> Roc | None:
    """A model's ROC curve, averaged over seeds; None where there are no probabilities."""
    found = sorted(run.predictions.get(label, {}).items(), key=str)
    curves = [curve for _, predictions in found if (curve := _roc(predictions, run)) is not None]
    if not curves:
        return None
    if len(curves) == 1:
        return curves[0]
    grid = _grid([curve.fpr for curve in curves])
    tpr = np.mean([np.interp(grid, curve.fpr, curve.tpr) for curve in curves], axis=0)
    area = float(np.mean([curve.area for curve in curves]))
    return Roc(np.append(0, grid), np.append(0, tpr), area, curves[0].classes)


def confusion(run: Run, label: str, classes: list[str]) -> np.ndarray | None:
    """Counts (true, predicted) of the test part, summed over seeds; from the records, else from the predictions."""
    position = {name: i for i, name in enumerate(classes)}
    cells = {}
    for r in run.records:
        if r.model == label and r.metric == "confusion" and r.step is None and r.split in (None, "test") and r.class_:
            cells[r.seed, r.class_] = r.value
    matrix = np.zeros((len(classes), len(classes)), dtype=int)
    for (_, pair), count in cells.items():
        parts = pair.split(" -> ")
        for cut in range(1, len(parts)):  # a class name may itself hold an arrow
            true, predicted = " -> ".join(parts[:cut]), " -> ".join(parts[cut:])
            if true in position and predicted in position:
                matrix[position[true], position[predicted]] += int(count)
                break
    if not cells:
        for predictions in run.predictions.get(label, {}).values():
            for true, predicted in zip(predictions.labels, predictions.predicted, strict=True):
                if true in position and predicted in position:
                    matrix[position[true], position[predicted]] += 1
    return matrix if matrix.any() else None


def mistakes(matrix: np.ndarray, classes: list[str], most: int) -> list[tuple[str, str, int, int]]:
    """The most frequent confusions: (true, predicted, count, images of the true class)."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(index), len(matrix)) for index in order]
    return [(classes[i], classes[j], int(wrong[i, j]), int(matrix[i].sum())) for i, j in pairs if wrong[i, j]]


def speeds(run: Run) -> list[Speed]:
    """Accuracy, or another primary metric, and throughput of every model that has both."""
    spots, metric = [], run.primary_metric
    counted = "tokens" if any(r.metric == "tokens_per_second" for r in run.records) else "images"
    rated = "tokens" if counted == "tokens" else run.task.passes[1]
    for label in run.labels:
        accuracies = list(run.finals.get((label, metric.metric, None), {}).values())
        rates = list(run.finals.get((label, f"{counted}_per_second", None), {}).values())
        if not accuracies or not rates or not all(np.isfinite([r.value for r in accuracies + rates])):
            continue
        value, low, high = interval_of(accuracies, metric.bounds, fraction=metric.fraction)
        low, high = (value if np.isnan(bound) else bound for bound in (low, high))
        spread = [bound for r in rates for bound in (r.spread or (r.value, r.value))]
        rate = float(np.mean([r.value for r in rates]))
        low, high = max(low, metric.bounds[0]), min(high, metric.bounds[1])
        spots.append(Speed(label, value, low, high, rate, min(spread), max(spread), rated))
    return spots


def positive_class(run: Run, classes: tuple[str, ...] | list[str]) -> str:
    """The class that sensitivity was measured for, else the second."""
    named = [r.class_ for r in run.records if r.metric == "sensitivity" and r.class_ and r.class_ in classes]
    return named[-1] if named else classes[1]


def _roc(predictions: Predictions, run: Run) -> Roc | None:
    scores, classes = predictions.probabilities, predictions.classes
    if scores is None or len(classes) < 2 or not np.isfinite(scores).all():
        return None
    labels = np.array(predictions.labels)
    if len(classes) == 2:
        positive = positive_class(run, classes)
        curve = roc_points(labels == positive, scores[:, classes.index(positive)])
        if curve is None:
            return None
        fpr, tpr = curve
        keep = np.ones(len(fpr), dtype=bool)  # all but the points on the straight lines of the staircase
        horizontal = (tpr[1:-1] == tpr[:-2]) & (tpr[1:-1] == tpr[2:])
        keep[1:-1] = ~(horizontal | ((fpr[1:-1] == fpr[:-2]) & (fpr[1:-1] == fpr[2:])))
        return Roc(fpr[keep], tpr[keep], _area(*curve), positive)
    each = (roc_points(labels == name, scores[:, i]) for i, name in enumerate(classes))
    found = [curve for curve in each if curve is not None]
    if not found:
        return None
    grid = _grid([fpr for fpr, _ in found])
    tpr = np.mean([np.interp(grid, fpr, tpr) for fpr, tpr in found], axis=0)
    area = float(np.mean([_area(*curve) for curve in found]))
    return Roc(np.append(0, grid), np.append(0, tpr), area, "")


def roc_points(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """False- and true-positive rates at every threshold, from (0, 0) to (1, 1); None if a class is absent."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    order = np.argsort(-score, kind="stable")
    truth, score = truth[order], score[order]
    # Images with equal scores pass a threshold together, or the curve would depend on their order.
    ends = np.flatnonzero(np.append(np.diff(score) != 0, True))
    true_positives = np.cumsum(truth)[ends]
    false_positives = ends + 1 - true_positives
    return np.append(0, false_positives / negatives), np.append(0, true_positives / positives)


def _area(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """By trapezoids; `np.trapezoid` is not in numpy 1."""
    return float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum())


def _grid(all_fpr: list[np.ndarray]) -> np.ndarray:
    grid = np.unique(np.concatenate(all_fpr))
    if len(grid) <= _MOST_POINTS:
        return grid
    # Half of the points where good models differ, below 10 % false positives.
    return np.unique(np.concatenate([np.linspace(0, 0.1, _MOST_POINTS // 2), np.linspace(0.1, 1, _MOST_POINTS // 2)]))
