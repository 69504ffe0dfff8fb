"""Scores as tables of `reports.tables`: models in columns, transformations in rows."""

from collections.abc import Callable

import numpy as np

from ssmlab.core import formats
from ssmlab.core.record import Record
from ssmlab.reports.primary_metric import interval_of, signed
from ssmlab.reports.tables import Cell, Row, Table, best_cells
from ssmlab.robustness.scores import ORIGINAL

LEGEND = "● marks the best of a measure. Brackets hold 95 % intervals over images, and over seeds if there are several."
SUMMARY = "All transformations"
# metric, heading of its table, better, format
BY_TRANSFORMATION = (
    ("accuracy", "Top-1 accuracy", 1, formats.percent),
    ("accuracy_drop", "Drop of top-1 from the original, percentage points", -1, formats.points),
    ("top5_accuracy", "Top-5 accuracy", 1, formats.percent),
    ("agreement", "Same answer as to the original", 1, formats.percent),
    ("ece", "Calibration error (ECE)", -1, formats.percent),
    ("label_auc", "Mean ROC AUC over labels", 1, formats.decimal(3)),
    ("label_auc_drop", "Drop of the mean ROC AUC from the original", -1, signed),
    ("label_accuracy", "Right answers", 1, formats.percent),
)
FIRST = ("accuracy", "label_auc")  # the score that models are ranked by: of one label an image, of several
OVERALL = (
    ("accuracy", ORIGINAL, "Top-1, original", 1, formats.percent),
    ("label_auc", ORIGINAL, "Mean ROC AUC, original", 1, formats.decimal(3)),
    ("mean_corruption_error", None, "Mean corruption error", -1, formats.percent),
    ("mean_drop", None, "Mean drop of top-1, points", -1, formats.points),
    ("mean_auc_drop", None, "Mean drop of the mean ROC AUC", -1, signed),
    ("label_accuracy", ORIGINAL, "Right answers, original", 1, formats.percent),
    ("top5_accuracy", ORIGINAL, "Top-5, original", 1, formats.percent),
    ("mean_agreement", None, "Same answer as to the original", 1, formats.percent),
    ("ece", ORIGINAL, "ECE, original", -1, formats.percent),
    ("mean_ece", None, "ECE, mean", -1, formats.percent),
    ("mce", None, "mCE, AlexNet = 100 %", -1, formats.percent),
    ("relative_mce", None, "Relative mCE, AlexNet = 100 %", -1, formats.percent),
)

Found = dict[tuple[str, str, str | None], list[Record]]


def by_model(records: list[Record]) -> Found:
    """(model, metric, transformation) -> a record for every seed."""
    found: Found = {}
    for record in records:
        found.setdefault((record.model or "", record.metric, record.class_), []).append(record)
    return found


def summary(records: list[Record], titles: dict[str, str]) -> Table:
    """What a model does over all transformations.

    Args:
        titles: label -> what to call the model.
    """
    found = by_model(records)
    rows = [_row(found, list(titles), label, SUMMARY, metric, class_, better, form)
            for metric, class_, label, better, form in OVERALL]  # fmt: skip
    return Table(tuple(titles.values()), tuple(row for row in rows if row), tuple(titles), ())


def by_transformation(records: list[Record], titles: dict[str, str], names: dict[str, str]) -> list[Table]:
    """A table for every score, with the transformations in rows.

    Args:
        names: transformation -> what to call it, in the order of the rows.
    """
    found = by_model(records)
    tables = []
    first = [row for row in BY_TRANSFORMATION if row[0] in FIRST]
    for metric, heading, better, form in (*first, *(row for row in BY_TRANSFORMATION if row not in first)):
        rows = [_row(found, list(titles), title, heading, metric, name, better, form) for name, title in names.items()]
        if any(rows):
            tables.append(Table(tuple(titles.values()), tuple(row for row in rows if row), tuple(titles), ()))
    return tables


def _row(found: Found, models: list[str], label: str, group: str, metric: str, class_: str | None, better: int,
         form: Callable[[float], str]) -> Row | None:  # fmt: skip
    records = [found.get((model, metric, class_), []) for model in models]
    if not any(records):
        return None
    values: list[float | None] = []
    cells = []
    for each in records:
        value, low, high = interval_of(each) if each else (None, 0.0, 0.0)
        values.append(value)
        if value is not None and not np.isfinite(low):
            low = high = value
        if form is formats.percent and not metric.endswith("mce"):
            low, high = float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))
        bounds = formats.percent_range(low, high) if form is formats.percent else f"[{form(low)}, {form(high)}]"
        cells.append(Cell(formats.UNKNOWN) if value is None else Cell(form(value), bounds))
    return Row(label, group, best_cells(cells, values, better))
