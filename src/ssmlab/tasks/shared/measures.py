"""Metrics that several tasks report: their rows in the comparison, and bits as the primary metric."""

from dataclasses import replace

from ssmlab.core import formats
from ssmlab.reports.primary_metric import PrimaryMetric, signed
from ssmlab.reports.task_report import QUALITY, Compared, Measure

UNITS = ("byte", "base", "sample")  # what bits are counted by


def share(metric: str, label: str, class_: str | None = None, help: str = "", *, interval: bool = True) -> Measure:
    """A fraction of which more is better."""
    return Measure(metric, label, QUALITY, 1, formats.percent, class_, help, interval=interval)


def area(metric: str, label: str, help: str) -> Measure:
    """An area under a curve."""
    return Measure(metric, label, QUALITY, 1, formats.decimal(3), help=help, interval=True)


ACCURACY = share("accuracy", "Accuracy", help="share classified correctly")
CLASSIFICATION = (
    ACCURACY,
    share("balanced_accuracy", "Balanced accuracy", help="mean recall over classes"),
    share("f1", "Macro F1", "macro", "mean over classes"),
    share("sensitivity", "Sensitivity", "*", "recall of"),
    share("specificity", "Specificity", "*", "recall of all but"),
    area("roc_auc", "ROC AUC", "area under the ROC curve"),
    area("pr_auc", "PR AUC", "area under the curve of precision and recall"),
    Measure("ece", "Calibration error", QUALITY, -1, formats.percent, help="ECE, as trained", interval=True),
    Measure("brier", "Brier score", QUALITY, -1, formats.decimal(3), help="squared distance", interval=True,
            bounded=False),
    share("label_accuracy", "Right answers", help="share of labels"),
    share("all_right", "Without a mistake", help="share of images with all labels right"),
    share("group_accuracy", "Accuracy, by group", help="of whole groups, such as patients: their mean probabilities"),
    share("group_sensitivity", "Sensitivity, by group", "*", "recall of"),
    share("group_specificity", "Specificity, by group", "*", "recall of all but"),
    area("group_roc_auc", "ROC AUC, by group", "of whole groups"),
)  # fmt: skip
COMPARED = (
    Compared("label_auc", "ROC AUC, mean over labels", signed),
    Compared("label_accuracy", "Right answers, percentage points", formats.points),
    Compared("accuracy", "Accuracy, percentage points", formats.points),
    Compared("roc_auc", "ROC AUC", signed),
    Compared("loss", "Loss, nats", signed),
)
LABEL_AUC = PrimaryMetric(  # of several labels an image
    "label_auc",
    "mean ROC AUC",
    True,
    "AUC",
    "",
    lambda value: f"mean AUC {formats.decimal(3)(value)}",
    signed,
    (0.0, 1.0),
)
TOKENS = (
    *(
        Measure(f"bits_per_{unit}", f"Bits per {unit}", QUALITY, -1, formats.decimal(3), interval=True, bounded=False)
        for unit in UNITS
    ),
    Measure("perplexity", "Perplexity", QUALITY, -1, formats.rate, help="exp of the loss"),
    share("token_accuracy", "Next tokens right", help="share foretold correctly", interval=False),
)
LOSS = Measure("loss", "Loss", QUALITY, -1, formats.decimal(3), help="cross-entropy in nats")
CLASS_LOSS = replace(LOSS, interval=True, bounded=False)
FORGETTING = (  # of the run that the models started from
    *(
        Measure(f"base_bits_per_{unit}", "Old task", QUALITY, -1, formats.decimal(3), help=f"bits per {unit}")
        for unit in UNITS
    ),
    *(Measure(f"forgotten_bits_per_{unit}", "Forgotten", QUALITY, -1, formats.decimal(3)) for unit in UNITS),
    share("base_accuracy", "Old task", help="accuracy, with its own head", interval=False),
    Measure("forgotten_accuracy", "Forgotten", QUALITY, -1, formats.percent, help="accuracy lost since"),
)


def bits(unit: str) -> PrimaryMetric:
    """Bits that a unit of text takes, of which fewer are better."""

    def text(value: float) -> str:
        return f"{formats.decimal(3)(value)} bits per {unit}"

    return PrimaryMetric(
        f"bits_per_{unit}", f"bits per {unit}", False, "bits", " fewer", text, signed, (0, float("inf"))
    )
