"""What a report must know of a task. Each task writes its own in `report.py`; here is only their form."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ssmlab.reports.primary_metric import PrimaryMetric

QUALITY, COST = "Quality, test part", "Cost"  # groups of measures
WILSON = (
    "Intervals are of 95 %: of shares Wilson's over the test {items}, of areas under the ROC curve DeLong's, of all "
    "others by drawing {items} with replacement, corrected for few of them."
)
BOOTSTRAP = "Rows of the test part are drawn with replacement for the interval of {name}, corrected for few rows."


@dataclass(frozen=True)
class Measure:
    """How a metric becomes a row of the comparison.

    Args:
        label: of the row; {item} and {Items} are what one forward pass takes.
        better: 1 where more is better, -1 where less is, 0 where neither.
        class_: of the records; "*" for the one class that they name.
        part: a metric of which this one's share is shown.
        interval: whether the value has one. bounded: whether it is at most 1.
    """

    metric: str
    label: str
    group: str
    better: int
    format: Callable[[float], str]
    class_: str | None = None
    help: str = ""
    part: str | None = None
    interval: bool = False
    bounded: bool = True


@dataclass(frozen=True)
class Compared:
    """A metric whose differences of all pairs are a table of the page.

    Args:
        label: heads the table. gap: a difference as it is printed; None: as those of the primary metric.
    """

    metric: str
    label: str
    gap: Callable[[float], str] | None = None


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """The words, metrics and sections of a task's reports.

    Args:
        items: what the test part counts: one, many.
        passes: what one forward pass takes, and costs are counted for: one, many.
        primary: candidates for the metric by which models are compared; without any the accuracy.
        measures: of the quality, in the order of the table.
        compared: metrics whose differences are shown for all pairs; without any the primary one.
        interval: how the interval of the quality is made, with {items} and {name} of the primary metric.
        resampled: what differences are resampled over, if not the items.
        not_compared: headline and detail where no model is better than another.
        notes: metrics, name and text of further lines on how numbers were made, where one of the metrics is there.
        by_updates: learning curves are drawn against updates, not against epochs.
        several: the page may have further runs, `Run.others`, next to the run that it is about.
        sheets: functions of a `Run`, each a list of further tables, for the terminal and for papers.
        plots: functions of a `Run`, each a list of plots.
        sections: name, heading and function of a `Run` and the plots by name; after the learning curves.
    """

    items: tuple[str, str]
    passes: tuple[str, str] = ("image", "images")
    primary: tuple[PrimaryMetric, ...] = ()
    measures: tuple[Measure, ...] = ()
    compared: tuple[Compared, ...] = ()
    interval: str = WILSON
    resampled: str = ""
    not_compared: tuple[str, str] | None = None
    notes: tuple[tuple[frozenset[str], str, str], ...] = ()
    by_updates: bool = False
    several: bool = False
    sheets: tuple[Callable[[Any], list], ...] = ()
    plots: tuple[Callable[[Any], list], ...] = ()
    sections: tuple[tuple[str, str, Callable[[Any, dict], Any]], ...] = ()

    def per_pass(self, label: str) -> str:
        """A label such as "MAC per {item}" or "{Items} per second"."""
        one, many = self.passes
        return label.format(item=one, Items=many.capitalize())


ReportOf = Callable[[str | None], TaskReport]
"""The task's name in run.json or in the records -> its report."""
