"""The comparison as a table."""

from collections.abc import Callable

from ssmlab.core import formats
from ssmlab.core.record import Record
from ssmlab.core.statistics import wilson
from ssmlab.reports.tables import Cell, Row, Table, best_cells
from ssmlab.studies.compare.published import Published

NOT_MEASURED = "not measured"
QUALITY, COST, SPEED, MEMORY = "Quality, test part", "Operations of one image", "Speed", "Memory, weights included"
PUBLISHED = "Published by the authors, not measured here"
LEGEND = (
    "● marks the best of a measure. Speed is the median of n rounds, in parentheses the slowest and the fastest; "
    "brackets hold 95 % intervals."
)


def make_table(
    records: list[Record],
    titles: dict[str, str],
    reasons: dict[str, str],
    printed: dict[str, Published | None],
    batch: int,
) -> Table:
    """Models in columns, measures in rows.

    Args:
        records: of the comparison. titles: label -> what to call the model.
        reasons: label -> why there is no accuracy.
        printed: label -> what its authors print.
    """
    found = {(r.model, r.metric, r.class_): r for r in records}
    maker = _Rows(found, list(titles), reasons)
    many = f"batch {batch}"
    rows = [
        *maker.quality(),
        maker.row(COST, "Image size", "image_size", formats.whole, 0),
        maker.row(COST, "Parameters", "parameters", formats.large, -1),
        maker.row(COST, "MAC", "macs", formats.large, -1),
        maker.without_scan("MAC without the scan", "macs"),
        maker.row(COST, "FLOP", "flops", formats.large, -1),
        maker.without_scan("FLOP without the scan", "flops"),
        maker.row(SPEED, "Images/s, batch 1", "images_per_second", formats.rate, 1, "batch 1"),
        maker.row(SPEED, f"Images/s, {many}", "images_per_second", formats.rate, 1, many) if batch > 1 else None,
        *maker.latency(),
        maker.row(SPEED, "First call, cold", "cold_seconds", formats.seconds, -1),
        maker.row(SPEED, f"Training images/s, {many}", "train_images_per_second", formats.rate, 1, many),
        maker.row(MEMORY, f"Inference, {many}", "peak_memory_inference", formats.size, -1, many),
        maker.row(MEMORY, f"Training, {many}", "peak_memory_training", formats.size, -1, many),
        *_published(printed),
    ]
    return Table(tuple(titles.values()), tuple(row for row in rows if row), tuple(titles), ())


class _Rows:
    def __init__(self, found: dict, labels: list[str], reasons: dict[str, str]):
        self.found, self.labels, self.reasons = found, labels, reasons

    def quality(self) -> list[Row | None]:
        measured = {metric for _, metric, _ in self.found}
        if "label_auc" in measured:
            return [
                self.row(QUALITY, "Mean ROC AUC", "label_auc", formats.decimal(3), 1),
                self.row(QUALITY, "Right answers", "label_accuracy", formats.percent, 1),
                self.row(QUALITY, "Without a mistake", "all_right", formats.percent, 1),
            ]
        if "accuracy" not in measured:
            return [Row("Accuracy", QUALITY, tuple(self._missing(m, "accuracy") for m in self.labels))]
        return [
            self.row(QUALITY, "Accuracy", "accuracy", formats.percent, 1),
            self.row(QUALITY, "Macro F1", "f1", formats.percent, 1, "macro"),
            self.row(QUALITY, "ROC AUC", "roc_auc", formats.decimal(4), 1),
            self.row(QUALITY, "Accuracy, by group", "group_accuracy", formats.percent, 1),
            self.row(QUALITY, "ROC AUC, by group", "group_roc_auc", formats.decimal(4), 1),
        ]

    def _missing(self, label: str, metric: str) -> Cell:
        shown = metric in ("accuracy", "label_auc")
        return Cell(NOT_MEASURED, self.reasons.get(label, "")) if shown else Cell(formats.UNKNOWN)

    def row(
        self, group: str, label: str, metric: str, form: Callable[[float], str], better: int, class_: str | None = None
    ) -> Row | None:
        records = [self.found.get((model, metric, class_)) for model in self.labels]
        if not any(records):
            return None
        cells = []
        for model, r in zip(self.labels, records, strict=True):
            detail = ""
            if r and metric == "accuracy":
                detail = formats.percent_range(*(r.spread or wilson(round(r.value * r.n), r.n)))
            elif r and r.spread and group == QUALITY:
                detail = f"[{form(r.spread[0])}, {form(r.spread[1])}]"
            elif r and r.spread:
                detail = f"({form(r.spread[0])} to {form(r.spread[1])}, n {r.n})"
            cells.append(Cell(form(r.value), detail) if r else self._missing(model, metric))
        return Row(label, group, best_cells(cells, [r.value if r else None for r in records], better))

    def latency(self) -> list[Row | None]:
        percents = sorted({int(c.split()[1]) for _, metric, c in self.found if metric == "latency"})
        calls = next((r.n for r in self.found.values() if r.metric == "latency"), 0)
        return [
            self.row(SPEED, f"Latency, {p} % of {calls} calls", "latency", formats.seconds, -1, f"percentile {p}")
            for p in percents
        ]

    def without_scan(self, label: str, metric: str) -> Row | None:
        values = [
            self.found[model, metric, None].value - self.found[model, f"scan_{metric}", None].value
            for model in self.labels
        ]
        return Row(label, COST, best_cells([Cell(formats.large(v)) for v in values], values, -1))


def _published(printed: dict[str, Published | None]) -> list[Row]:
    if not any(printed.values()):
        return []

    def row(label: str, what: Callable[[Published], tuple[float | None, str, str]]) -> Row:
        cells = []
        for known in printed.values():
            value, text, detail = what(known) if known else (None, "", "")
            cells.append(Cell(text, detail) if value is not None else Cell(formats.UNKNOWN))
        return Row(label, PUBLISHED, tuple(cells))

    rows = [
        row("Top-1, ImageNet-1K", lambda p: (p.top1, formats.percent(p.top1 or 0), f"{p.image_size} pixels")),
        row("Parameters, printed", lambda p: (p.parameters, formats.large(p.parameters or 0), "")),
        row("MAC, printed as FLOPs", lambda p: (p.macs, formats.large(p.macs or 0), f"{p.image_size} pixels")),
        row(
            "Images/s, printed",
            lambda p: (p.images_per_second, formats.rate(p.images_per_second or 0), p.hardware or ""),
        ),
        row("Source", lambda p: (1, p.source, "")),
    ]
    return [row for row in rows if any(cell.value != formats.UNKNOWN for cell in row.cells)]
