"""Whether a run's probabilities mean what they say: reliability diagram, errors before and after, thresholds."""

import numpy as np

from ssmlab.core import formats
from ssmlab.core.statistics.calibration import BINS, Reliability, log_softmax, reliability
from ssmlab.reports import theme
from ssmlab.reports.markup import Html, join
from ssmlab.reports.plots import Plot
from ssmlab.reports.primary_metric import interval_of
from ssmlab.reports.run_folder import Predictions, Run
from ssmlab.reports.sections import figure, legend
from ssmlab.reports.tables import Sheet

SHOWN = (("loss", "Loss, nats", formats.decimal(3)), ("brier", "Brier score", formats.decimal(3)),
         ("ece", "Calibration error", formats.percent))  # fmt: skip


def diagram(predictions: Predictions, temperature: float = 1.0) -> Reliability | None:
    """The points of a reliability diagram of the most likely class; None where there are no probabilities."""
    likely = predictions.probabilities
    if likely is None or not np.isfinite(likely).all():
        return None
    likely = np.exp(log_softmax(np.log(np.maximum(likely, 1e-300)) / temperature))
    return reliability(likely.max(1), predictions.correct)


def plots(run: Run) -> list[Plot]:
    """Reliability before and after the temperature, of the first seed."""
    found: dict[str, list[Reliability]] = {}
    for label in run.labels:
        own = run.predictions.get(label, {})
        temperatures = run.finals.get((label, "temperature", None), {})
        seed = next(iter(own), None)
        record = temperatures.get(seed) or next(iter(temperatures.values()), None)
        if own and record is not None:
            drawn = [diagram(own[seed], each) for each in (1.0, record.value)]
            found[label] = [each for each in drawn if each is not None]
    if not any(found.values()):
        return []

    def paint(figure):
        halves = figure.subplots(1, 2, sharey=True)
        for axes, title, place in zip(halves, ("as trained", "at the temperature"), (0, 1), strict=True):
            axes.plot([0, 1], [0, 1], color=theme.MUTED, linewidth=1, linestyle=(0, (2, 3)))
            for label, both in found.items():
                if len(both) == 2:
                    index, line = run.labels.index(label), both[place]
                    axes.plot(line.confidence, line.accuracy, color=theme.colour(index), linewidth=1.2)
                    size = 6 + 60 * line.count / line.count.max()
                    axes.scatter(line.confidence, line.accuracy, size, theme.colour(index), marker=theme.marker(index))
            axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability of the class", title=title)
        halves[0].set_ylabel("share that is right")

    caption = (
        "On the line, of ten answers with 70 % seven are right; below it the model is too sure. "
        "The larger a mark, the more answers."
    )
    if len(run.seeds) > 1:
        caption += " First seed."
    return [Plot("reliability", theme.draw((560, 280), paint, "reliability"), f"Reliability. {caption}", caption)]


def section(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """Errors of the probabilities before and after the temperature, and what the threshold of two classes does."""
    boxes = [sheet.html for sheet in sheets(run)]
    if boxes and "reliability" in drawn:
        boxes.insert(0, join([legend(run), figure(drawn["reliability"])]))
    return join(boxes) if boxes else None


def sheets(run: Run) -> list[Sheet]:
    """The tables of the section."""
    labels = [label for label in run.labels if (label, "temperature", None) in run.finals]
    heads = ["Temperature"]
    for _, title, _ in SHOWN:
        heads += [title, "after"]
    rows = []
    for label in labels:
        cells = [formats.decimal(2)(run.final(label, "temperature") or 1.0)]
        for metric, _, form in SHOWN:
            cells += [ranged(run, label, name, form) for name in (metric, f"{metric}_calibrated")]
        rows.append((run.titles[label], tuple(cells)))
    note = (
        "The temperature divides the logits; it makes the validation part likeliest and changes no order. Loss and "
        f"Brier score are means, the calibration error is over {BINS} bins, less what few cases alone make of it. "
        "Saved with the model: ssmlab classify --calibrated and predict(..., calibrated=True) apply it."
    )
    found = [Sheet("Calibration", "Test part", tuple(heads), tuple(rows), note)] if rows else []
    rows = []
    for label in labels:
        positive = next((class_ for own, metric, class_ in run.finals if (own, metric) == (label, "threshold")), None)
        if positive is None:
            continue
        cells = [formats.decimal(3)(run.final(label, "threshold", positive) or 0.0)]
        for metric in ("sensitivity", "specificity"):
            names = (metric, f"{metric}_at_threshold")
            cells += [ranged(run, label, name, formats.percent, positive) for name in names]
        rows.append((f"{run.titles[label]}, {positive}", tuple(cells)))
    heads = ["Threshold", "Sensitivity at 0.5", "at the threshold", "Specificity at 0.5", "at the threshold"]
    note = (
        "Of the calibrated probability, chosen on the validation part by Youden's index or the wanted "
        "evaluation.sensitivity; the test part played no role in it."
    )
    return found + ([Sheet("Threshold", "Test part", tuple(heads), tuple(rows), note)] if rows else [])


def ranged(run: Run, label: str, metric: str, form, class_: str | None = None) -> str:
    """A number of the test part with its interval, over cases and seeds."""
    found = run.finals.get((label, metric, class_))
    if not found:
        return formats.UNKNOWN
    limits = (0.0, float("inf") if metric.startswith("loss") else 1.0)
    value, low, high = interval_of(found.values(), limits)
    if not np.isfinite(low):
        return form(value)
    bounds = formats.percent_range(low, high) if form is formats.percent else f"[{form(low)}, {form(high)}]"
    return f"{form(value)} {bounds}"
