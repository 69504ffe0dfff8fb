"""The costs and the quality of a model at several ranks, as a table."""

from collections.abc import Callable

from ssmlab.core import formats
from ssmlab.reports.tables import Cell, Row, Table
from ssmlab.studies.compress.result import AFTER, BEFORE, DENSE, Result

QUALITY = "Quality, test part"


def make_table(result: Result) -> Table:
    """Settings in columns, the dense model first; measures in rows."""
    terms, many = result.terms, f"batch {result.settings['batch']}"
    item, cost = f"{terms.item.capitalize()}s/s", f"Cost of one {terms.item}"

    def row(group: str, name: str, metric: str, text: Callable, class_: str | None = None) -> Row | None:
        records = [result.found.get((label, metric, class_)) for label in result.labels]
        cells = []
        for r in records:
            detail = ""
            if r and r.spread and r.unit == "fraction":
                detail = formats.percent_range(*r.spread)
            elif r and r.spread:
                low, high = map(text, r.spread)
                detail = f"[{low}, {high}]" if r.split == "test" else f"({low} to {high}, n {r.n})"
            cells.append(Cell(text(r.value), detail) if r else Cell(formats.UNKNOWN))
        return Row(name, group, tuple(cells)) if any(records) else None

    rows = [
        *_layers(result),
        row(cost, "Parameters", "parameters", formats.large),
        row(cost, "MAC", f"macs{terms.suffix}", formats.large),
        row(cost, "of which scan", f"scan_macs{terms.suffix}", formats.large),
        row(cost, "FLOP", f"flops{terms.suffix}", formats.large),
        row("Speed", f"{item}, {many}", terms.speed, formats.rate, many),
        row("Speed", "Latency, median", "latency", formats.seconds, "percentile 50"),
        row("Speed", f"Training {item.lower()}, {many}", terms.train_speed, formats.rate, many),
        *(
            row(QUALITY, f"{name} {when}", metric, text, when)
            for when in (BEFORE, AFTER)
            for metric, (name, text) in terms.quality.items()
        ),
        row(QUALITY, "Fine-tuning", "train_seconds", formats.seconds),
    ]
    if result.unmeasured:
        cells = tuple(Cell("not measured", result.unmeasured if label == DENSE else "") for label in result.labels)
        rows.append(Row(terms.quality[terms.primary_metric][0], QUALITY, cells))
    return Table(tuple(result.labels), tuple(row for row in rows if row), tuple(result.labels), ())


def _layers(result: Result) -> list[Row]:
    """What was replaced: ranks, energy, weights."""
    ranks, kept = [Cell("full")], [Cell(formats.percent(1))]
    weights = [Cell(formats.large(sum(layer.dense for layer in result.replaced[result.labels[1]])))]
    for label in result.labels[1:]:
        replaced = result.replaced[label]
        found, side = [x.rank for x in replaced], max(x.residual_rank for x in replaced)
        text = f"{min(found)}" if len(set(found)) == 1 else f"{min(found)} to {max(found)}"
        ranks.append(Cell(text, f"+ {side}" if side else ""))
        energies = [x.energy for x in replaced]
        kept.append(Cell(formats.percent(min(energies)), f"to {formats.percent(max(energies))}"))
        weights.append(Cell(formats.large(sum(x.parameters for x in replaced))))
    named = {f"Rank of {formats.plural(len(result.spectra), 'layer')}": ranks, "Energy kept": kept}
    named["Their weights"] = weights
    return [Row(name, "Layers", tuple(cells)) for name, cells in named.items()]
