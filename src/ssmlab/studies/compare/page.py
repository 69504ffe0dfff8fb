"""The files of a comparison: records, table, plots and one self-contained page."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ssmlab.core import formats
from ssmlab.core.statistics import Interval
from ssmlab.data.tables import group_title
from ssmlab.reports import differences
from ssmlab.reports.markup import el
from ssmlab.reports.primary_metric import ACCURACY as BY_ACCURACY
from ssmlab.reports.primary_metric import corrected_for, p_is, too_few, undecided
from ssmlab.reports.sections import figure, named
from ssmlab.reports.tables import Table, to_html, to_markdown
from ssmlab.studies.compare.model_refs import ModelRef
from ssmlab.studies.compare.pareto import ACCURACY, AREA, MACS, Axis, Spot, front, plot
from ssmlab.studies.compare.published import Published, published
from ssmlab.studies.compare.table import LEGEND, QUALITY, make_table
from ssmlab.studies.study import CIRCUMSTANCES, Report, card, page, section
from ssmlab.tasks.shared.measures import COMPARED, LABEL_AUC

METHOD = (
    (
        "Speed",
        "Batches of noise in evaluation mode, float32, without reading files. In every round each model has its turn, "
        "another one first each time, so that a machine that slows down slows all. The first calls are not among them.",
    ),
    ("First call", "One image through a model that has computed nothing yet; torch itself had computed before."),
    ("Latency", "Of one image at a time. The percentiles are of all warm calls."),
    (
        "Operations",
        "Products, convolutions, attention and scans; norms, activations and sums are not counted. One "
        "multiply-accumulate (MAC) is two operations (FLOP). A selective scan is 9·d·l·n + d·l MAC for every "
        "direction. What authors print as FLOPs are MAC.",
    ),
    (
        "Memory",
        "The weights and the most that comes on top of them at once; for training that is gradients, both moments of "
        "AdamW and what the backward pass reads. On a CPU by the resident memory of the process.",
    ),
    ("Training", "Forward, cross-entropy, backward and AdamW on a batch of noise, without reading files."),
    (
        "Quality",
        "On the test part. Trained models see it as they saw their training images. Intervals are over images (whole "
        "groups of them, where a column names them) and seeds.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Result(Report):
    """A finished comparison.

    Args:
        reasons: label -> why there is no accuracy.
        doubts: why numbers of models decide nothing, see `reports.caveats.doubt`.
    """

    models: list[ModelRef]
    reasons: dict[str, str]
    doubts: tuple[str, ...] = ()

    @property
    def titles(self) -> dict[str, str]:
        return {model.label: model.title for model in self.models}

    @property
    def batch(self) -> int:
        return self.settings["batch"]

    @cached_property
    def table(self) -> Table:
        made = make_table(self.records, self.titles, self.reasons, self.printed, self.batch)
        made = made.unmarked(QUALITY) if self.doubts else made
        return replace(made, notes=(self.sizes,) if self.sizes else ())

    @property
    def printed(self) -> dict[str, Published | None]:
        """Of networks whose size is the published one; a trained model of that name has other weights."""
        found = {s.label: None if s.folder else published(s.name) for s in self.models}
        sizes = {r.model: r.value for r in self.records if r.metric == "image_size"}
        return {label: p if p and p.image_size == sizes[label] else None for label, p in found.items()}

    def spots(self, axis: Axis) -> list[Spot]:
        """The models that have both numbers."""
        speeds = {
            r.model: (r.value, r.spread)
            for r in self.records
            if r.metric == "images_per_second" and r.class_ == f"batch {self.batch}" and r.model and r.spread
        }
        return [
            Spot(r.model, list(self.titles).index(r.model), *speeds[r.model], r.value, r.spread)
            for r in self.records
            if r.metric == axis.name and r.model in speeds
        ]

    @property
    def axis(self) -> Axis:
        """What speed is weighed against: accuracy, or of several labels the mean area; operations if nothing was
        tested."""
        return next((axis for axis in (ACCURACY, AREA) if self.spots(axis)), MACS)

    @property
    def tested(self) -> differences.Tested:
        """The models as the differences of all pairs are of them."""
        settings = self.settings
        groups, column = settings.get("test_groups") or None, group_title(settings.get("group"))
        return differences.Tested(
            records=self.records, titles=self.titles, compared=COMPARED, many="images",
            seeds=settings.get("seeds", 1), groups=groups, column=column,
        )  # fmt: skip

    @property
    def answer(self) -> str:
        """One sentence: the models that no other one beats, or why that decides nothing, and the best against the
        next."""
        tested = [r.n for r in self.records if r.metric == self.axis.name]
        if self.doubts and self.axis is not MACS:
            return f"No verdict: {'; '.join(self.doubts)}"
        cases = min((n or 0 for n in tested), default=0)
        groups = self.settings.get("test_groups")
        if tested and self.axis is not MACS and (few := too_few(groups or cases, "groups" if groups else "images")):
            return f"No verdict: {few}"
        ahead = [self.titles[label] for label in front(self.spots(self.axis), self.axis)]
        against = {ACCURACY.name: "accuracy", AREA.name: "mean ROC AUC"}.get(self.axis.name, "operations")
        front_of = f"{formats.listing(ahead)} on the Pareto front of {against} and images per second"
        return "; ".join(filter(None, (front_of, self.best_against_next, *self.doubts)))

    @property
    def best_against_next(self) -> str:
        """By how much the best model is better than the next, by the rule of every verdict; nothing of one model."""
        metric = {ACCURACY.name: BY_ACCURACY, AREA.name: LABEL_AUC}.get(self.axis.name)
        if metric is None:
            return ""
        values = {r.model: r.value for r in self.records if r.metric == metric.metric and r.model in self.titles}
        best, second = [*sorted(values, key=lambda label: -values[label]), None, None][:2]
        pairs = differences.pairs_of(self.records, list(self.titles), metric.metric)
        pair = next((each for each in pairs if {each.first, each.second} == {best, second}), None)
        if best is None or second is None or pair is None or (found := pair.turned(best)) is None:
            return ""
        ahead = Interval(*found)
        why = undecided(ahead, metric.gap, pair.corrected, len(pairs))
        names = (
            f"{self.titles[best]} is {metric.gap(ahead.value).lstrip('+')} {metric.unit} ahead of {self.titles[second]}"
        )
        if why or pair.corrected is None:
            return f"{names}, which names no winner: {why}"
        return (
            f"{names} (95 % interval {metric.gap(ahead.low)} to {metric.gap(ahead.high)}, "
            f"{p_is(pair.corrected)}{corrected_for(len(pairs)).rstrip(',')})"
        )

    @property
    def sizes(self) -> str:
        """A sentence where networks by name took the size of the trained models, else nothing."""
        trained, named = ([s for s in self.models if bool(s.folder) is of] for of in (True, False))
        if self.settings["image_size"] or not trained or not named:
            return ""
        found = {r.model: round(r.value) for r in self.records if r.metric == "image_size"}
        size, names = found[named[0].label], formats.listing([s.title for s in named])
        models = [s.title for s in trained if found[s.label] == size]
        return (
            f"Networks by name ({names}) are measured at {size} x {size} pixels, the size at which "
            f"{formats.listing(models)} {'was' if len(models) == 1 else 'were'} trained; --image-size N sets another."
        )


def write_result(result: Result) -> Path:
    """Write the files of a comparison; returns the page's path."""
    models = [
        {
            "label": m.label,
            "title": m.title,
            "name": m.name,
            "weights": m.state,
            "accuracy": result.reasons.get(m.label),
        }
        for m in result.models
    ]
    lines = [f"- {key}: {getattr(result.stamp, key)}" for key in CIRCUMSTANCES]
    weights = [f"- {model['label']}: weights {model['weights']}" for model in models]
    answer = " ".join(filter(None, (f"{result.answer}.", result.sizes)))
    table = "\n".join(["# ssmlab compare", "", answer, "", *lines, *weights, "", to_markdown(result.table)])
    found = differences.sheets(result.tested)
    if found:
        table += "\n".join(["", "# Differences of all pairs", "", differences.assumptions(result.tested), ""])
        table += "\n".join(["", *(sheet.markdown for sheet in found)])
    drawn = [plot(result.spots(axis), axis, result.titles, result.batch) for axis in (ACCURACY, AREA, MACS)]
    plots = [each for each in drawn if each is not None]
    names = [named(i, title) for i, title in enumerate(result.titles.values())]
    text = page(
        "compare",
        ", ".join(result.titles.values()),
        eyebrow=result.folder.name,
        heading=f"{formats.plural(len(result.models), 'model')} side by side",
        answer=[
            el("p", el("strong", result.answer), ".", class_="answer"),
            el("p", result.sizes, class_="lede") if result.sizes else None,
        ],
        sections=[
            el("section", card(to_html(result.table, names, caption=LEGEND)), class_="top single"),
            section("Differences of all pairs", differences.section(result.tested)) if found else None,
            section("The Pareto front", el("div", [figure(p) for p in plots], class_="grid")),
        ],
        method=METHOD,
        facts=result.facts(("Models", "; ".join(f"{m.title}: {m.name}, weights {m.state}" for m in result.models))),
    )
    return result.write("compare", {"models": models, "doubts": result.doubts}, text, table=table, plots=plots)
