"""The numbers of a classification: logits and labels to records. scikit-learn counts; this file names."""

import numpy as np

from ssmlab.core.record import Record
from ssmlab.core.statistics import wilson

WHOLE = 20  # more classes leave the empty cells out of the confusion matrix: a thousand have a million cells


def classification_metrics(
    logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], *, positive: str = ""
) -> list[Record]:
    """Every number of a classification, without the circumstances (run, model, split are added by the caller).

    Macro and weighted averages and the balanced accuracy are over the classes that occur in `labels`; a class that
    does not occur has support 0 and no recall. Intervals are 95 % Wilson intervals.

    Args:
        logits: (n, classes), in the order of `classes`.
        labels: (n,) indices into `classes`.
        positive: of two classes, the one whose recall is the sensitivity; the second if empty.
    """
    logits = np.asarray(logits, np.float64)
    labels = np.asarray(labels, np.int64)
    n = len(labels)
    predicted = logits.argmax(1)
    correct = int((predicted == labels).sum())
    log_probabilities = log_softmax(logits)
    loss = float(-log_probabilities[np.arange(n), labels].mean())
    records = [
        Record(metric="loss", value=loss, unit="nats", n=n),
        Record(metric="accuracy", value=correct / n, unit="fraction", n=n, spread=wilson(correct, n)),
    ]
    records += _per_class(labels, predicted, classes)
    if len(classes) == 2:
        records += _two_classes(labels, predicted, classes, positive)
    auc = roc_auc(np.exp(log_probabilities), labels)
    if auc is not None:
        records.append(Record(metric="roc_auc", value=auc, unit="fraction", n=n))
    return records


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def loss_and_accuracy(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Cross-entropy in nats and accuracy of logits (n, classes), every row counted once."""
    losses = -log_softmax(logits.astype(np.float64))[np.arange(len(labels)), labels]
    return {"loss": float(losses.mean()), "accuracy": float((logits.argmax(1) == labels).mean())}


def roc_auc(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the ROC curve: of the second class if there are two, else the mean of one against the rest.

    The mean is over classes that occur; None where no class has both members and others.
    """
    from sklearn.metrics import roc_auc_score

    count = probabilities.shape[1]
    columns = [1] if count == 2 else range(count)
    areas = [
        roc_auc_score(labels == column, probabilities[:, column])
        for column in columns
        if 0 < (labels == column).sum() < len(labels)
    ]
    return float(np.mean(areas)) if areas else None


def _per_class(labels, predicted, classes) -> list[Record]:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    n = len(labels)
    indices = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0)
    present = support > 0
    records = []
    for i, name in enumerate(classes):
        count = int(support[i])
        records.append(Record(metric="support", value=count, class_=name, unit="count", n=n))
        records.append(Record(metric="precision", value=float(precision[i]), class_=name, unit="fraction", n=n))
        if present[i]:
            hits = round(recall[i] * count)
            records += [
                Record(
                    metric="recall",
                    value=float(recall[i]),
                    class_=name,
                    unit="fraction",
                    n=count,
                    spread=wilson(hits, count),
                ),
                Record(metric="f1", value=float(f1[i]), class_=name, unit="fraction", n=n),
            ]
    for metric, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        macro = float(values[present].mean())
        weighted = float((values * support).sum() / n)
        records.append(Record(metric=metric, value=macro, class_="macro", unit="fraction", n=n))
        records.append(Record(metric=metric, value=weighted, class_="weighted", unit="fraction", n=n))
    balanced = float(recall[present].mean())
    records.append(Record(metric="balanced_accuracy", value=balanced, unit="fraction", n=n))
    counts = confusion_matrix(labels, predicted, labels=indices)
    records += [
        Record(metric="confusion", value=int(counts[i, j]), class_=f"{true} -> {guess}", unit="count", n=n)
        for i, true in enumerate(classes)
        for j, guess in enumerate(classes)
        if counts[i, j] or len(classes) <= WHOLE
    ]
    return records


def _two_classes(labels, predicted, classes, positive) -> list[Record]:
    """Sensitivity: how many of the positive class are found; specificity: how many of the other."""
    one = classes.index(positive) if positive else 1
    records = []
    for metric, which in (("sensitivity", one), ("specificity", 1 - one)):
        count = int((labels == which).sum())
        if count:
            hits = int(((labels == which) & (predicted == which)).sum())
            records.append(
                Record(
                    metric=metric,
                    value=hits / count,
                    class_=classes[one],
                    unit="fraction",
                    n=count,
                    spread=wilson(hits, count),
                )
            )
    return records
