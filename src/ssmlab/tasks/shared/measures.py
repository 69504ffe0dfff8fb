"""Metrics that several tasks report: their rows in the comparison, and bits as the primary metric."""

from ssmlab.core import formats
from ssmlab.reports.primary_metric import PrimaryMetric, signed
from ssmlab.reports.task_report import QUALITY, Measure

UNITS = ("byte", "base", "sample")  # what bits are counted by


def share(metric: str, label: str, class_: str | None = None, help: str = "", *, interval: bool = True) -> Measure:
    """A fraction of which more is better."""
    return Measure(metric, label, QUALITY, 1, formats.percent, class_, help, interval=interval)


ACCURACY = share("accuracy", "Accuracy", help="share classified correctly")
CLASSIFICATION = (
    ACCURACY,
    share("balanced_accuracy", "Balanced accuracy", help="mean recall over classes"),
    share("f1", "Macro F1", "macro", "mean over classes"),
    share("sensitivity", "Sensitivity", "*", "recall of"),
    share("specificity", "Specificity", "*", "recall of all but"),
    Measure("roc_auc", "ROC AUC", QUALITY, 1, formats.decimal(4), help="area under the ROC curve", interval=True),
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
