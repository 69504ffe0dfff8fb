"""The files of a test of robustness: records, tables, plot, grid and one self-contained page."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core import formats
from ssmlab.core.files import write_atomically, write_json, write_records
from ssmlab.core.record import Record
from ssmlab.core.stamp import Stamp
from ssmlab.core.statistics import Interval, ratio_difference
from ssmlab.reports.deciding import too_few, undecided
from ssmlab.reports.markup import Html, definitions, document, el
from ssmlab.reports.plots import Plot
from ssmlab.reports.sections import figure, named
from ssmlab.reports.table_html import to_html
from ssmlab.reports.tables import Table
from ssmlab.robustness.conditions import Condition
from ssmlab.studies.compare.members import Member
from ssmlab.studies.compare.table import to_markdown
from ssmlab.studies.robustness import grid, table
from ssmlab.studies.robustness.evaluation import MARK
from ssmlab.studies.robustness.plot import best_and_worst
from ssmlab.studies.robustness.sample import Sample

METHOD = (
    (
        "Images",
        "Drawn by a hash of seed and name, so many of each class. Every model sees the same images, changed in the "
        "same way: random numbers are keyed by seed, image and transformation. A model trained on part of the data is "
        "tested on the part named below.",
    ),
    (
        "Mean corruption error",
        "The error (1 - top-1) of every transformation, the mean over its severities, and the mean of those over all "
        "transformations but the original; attacks are not among them. mCE and relative mCE, for ImageNet-C with all "
        "severities, divide the errors and their rises by AlexNet's first.",
    ),
    ("Drop", "Top-1 on the original images minus top-1 on the changed ones."),
    ("Same answer", "The fraction of images with the class that the model gave the original, right or wrong."),
    (
        "ECE",
        "Expected calibration error: 15 bins of the confidence, in each the distance of accuracy and mean confidence, "
        "weighted by the images in it.",
    ),
    (
        "Intervals",
        "95 %. Of one seed: bootstrap, images drawn with replacement, the same ones for all transformations; that of "
        "ECE is reflected at its value, since ECE is too large on average. Of several seeds: Student's t.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished test.

    Args:
        records: with `class_` the transformation. right: group -> per member, the fraction of the changed versions of
            each image that are told right, (n,).
        conditions: in the order of the tables. settings: the options as they were used.
        doubts: why numbers of models decide nothing, see `reports.caveats.doubt`.
    """

    folder: Path
    members: list[Member]
    sample: Sample
    conditions: list[Any]
    records: list[Record]
    right: dict[str, list[np.ndarray]]
    settings: dict
    stamp: Stamp
    started: str
    finished: str
    doubts: tuple[str, ...] = ()

    @property
    def titles(self) -> dict[str, str]:
        return {member.group: member.title for member in self.members}

    @property
    def names(self) -> dict[str, str]:
        """Condition -> title."""
        return {condition.name: condition.title for condition in self.conditions}

    @property
    def transformations(self) -> dict[str, str]:
        """Those of them that means are taken over: neither the original nor attacks."""
        return {c.name: c.title for c in self.conditions if isinstance(c, Condition) and c.severity}

    @cached_property
    def summary(self) -> Table:
        made = table.summary(self.records, self.titles)
        return made.unmarked() if self.doubts else made

    @cached_property
    def by_transformation(self) -> list[Table]:
        made = table.by_transformation(self.records, self.titles, self.names)
        return [each.unmarked() if self.doubts else each for each in made]

    @property
    def counts(self) -> str:
        return f"{len(self.sample.ids):,} images, {formats.plural(len(self.transformations), 'transformation')}"

    @cached_property
    def answer(self) -> tuple[str, str]:
        """Who holds best, and by how much; or why there is no verdict, and the numbers."""
        found = table.by_model(self.records)
        errors = {label: table.interval_of(found[label, "mean_corruption_error", None])[0] for label in self.titles}
        order = sorted(errors, key=lambda label: errors[label])
        first = f"{self.titles[order[0]]}: mean corruption error {formats.percent(errors[order[0]])}"
        second = "".join(f"{self.titles[label]} {formats.percent(errors[label])}" for label in order[1:2])
        if self.doubts:
            return f"No verdict: {'; '.join(self.doubts)}", ", then ".join(filter(None, (first, second)))
        if not second:
            return first, ""
        margin = self._margin(order[0], order[1])
        if margin is None:
            return f"{first}, then {second}", ""
        if few := too_few(len(self.sample.ids), "images"):
            return f"No verdict: {few}", f"{first}, then {second}"
        bounds = f"{formats.points(margin.low)} to {formats.points(margin.high)}"
        if reason := undecided(margin, formats.points):
            return (
                f"No clear lead: {first}, then {second}",
                f"difference {formats.points(margin.value)} points, {bounds}: {reason}",
            )
        return f"{first}, then {second}", f"{formats.points(margin.value)} points, {bounds} (95 %)"

    def _margin(self, first: str, second: str) -> Interval | None:
        """Mean accuracy under the transformations, first minus second, over the same images and seeds."""
        a, b = np.stack(self.right[first]), np.stack(self.right[second])
        if a.shape != b.shape:
            return None
        return ratio_difference(a, b, np.ones(a.shape[1]), resamples=self.settings["resamples"])


def write_result(result: Result) -> Path:
    """Write everything, each file in one step, the page last."""
    folder = result.folder
    circumstances = {key: getattr(result.stamp, key) for key in ("command", "commit", "machine", "versions")}
    models = [
        {"label": m.subject.label, "group": m.group, "title": m.title, "seed": m.seed, "weights": m.subject.state}
        for m in result.members
    ]
    write_records(folder / "records.jsonl", result.records)
    tables = result.by_transformation
    headline = ". ".join(text for text in result.answer if text)
    facts = [f"- {name}: {text}" for name, text in _facts(result)]
    text = "\n".join(["# ssmlab robustness", "", f"{headline}.", "", *facts, ""])
    write_atomically(folder / "table.md", "\n".join([text, *map(to_markdown, (result.summary, *tables))]))
    whole, *panels = best_and_worst(result.records, result.titles, result.transformations)
    write_atomically(folder / "plots" / f"{whole.name}.svg", whole.svg)
    shown = _tiles(result)
    write_atomically(folder / "grid.png", grid.to_png(shown))
    path = folder / "report.html"
    write_atomically(path, page(result, tables, panels, shown))
    content = {
        "models": models,
        "doubts": result.doubts,
        "settings": result.settings,
        "images": len(result.sample.ids),
        **circumstances,
    }
    write_json(folder / MARK, content | {"started": result.started, "finished": result.finished})
    return path


def _tiles(result: Result) -> list[tuple[str, np.ndarray]]:
    """The first image of the sample under every condition but attacks."""
    from ssmlab.data.images.decode import fit_square

    size = max((m.subject.preprocess["image_size"] for m in result.members if m.subject.preprocess), default=224)
    fit = next((m.subject.preprocess.get("fit", "crop") for m in result.members if m.subject.preprocess), "crop")
    image = np.asarray(fit_square(result.sample.splits[0].image(0), size, fit))
    severities = sorted({c.severity for c in result.conditions if isinstance(c, Condition)} - {0})
    shown = {0, min(severities, key=lambda severity: abs(severity - 3))}  # of several, the middle one
    conditions = [c for c in result.conditions if isinstance(c, Condition) and c.severity in shown]
    return grid.tiles(image, int(result.sample.keys[0]), conditions, result.settings["seed"])


def page(result: Result, tables: list[Table], panels: list[Plot], shown: list[tuple[str, np.ndarray]]) -> str:
    """The page's text."""
    names = [named(i, title) for i, title in enumerate(result.titles.values())]
    headline, detail = result.answer
    body = el(
        "main",
        el(
            "header",
            el("p", f"ssmlab robustness · {result.folder.name} · {result.counts}", class_="eyebrow"),
            el("h1", "How models hold when images change"),
            el("p", el("strong", headline), f"; {detail}." if detail else ".", class_="answer"),
        ),
        el(
            "section",
            el("div", to_html(result.summary, names, caption=table.LEGEND), class_="card"),
            class_="top single",
        ),
        el("section", el("h2", "Best and worst"), el("div", [figure(p) for p in panels], class_="grid")),
        el("section", el("h2", "By transformation"), *_details(tables, names)),
        el("section", el("h2", "What the transformations do"), el("div", grid.to_html(shown), class_="card")),
        el("section", el("h2", "How these numbers were made"), el("div", definitions(METHOD), class_="card")),
        el("section", el("h2", "Models, settings, machine"), el("div", definitions(_facts(result)), class_="card")),
        el("footer", "Made by ssmlab; the numbers are in records.jsonl, the tables in table.md, the grid in grid.png."),
    )
    return document(f"{', '.join(result.titles.values())} – ssmlab robustness", body)


def _details(tables: list[Table], names: list[Html]) -> list[Html]:
    """The first table open, the others below their headings."""
    first, *rest = tables
    made = [el("div", to_html(first, names, caption=table.LEGEND, what=first.rows[0].group), class_="card")]
    for each in rest:
        content = el("div", to_html(each, names, what=each.rows[0].group), class_="card")
        made.append(el("details", el("summary", each.rows[0].group), content))
    return made


def _facts(result: Result) -> list[tuple[str, str]]:
    seeds = {m.group: [x.seed for x in result.members if x.group == m.group] for m in result.members}
    models = "; ".join(
        f"{title}: {', '.join(m.subject.state for m in result.members if m.group == label)}"
        + (f" (seeds {', '.join(map(str, seeds[label]))})" if len(seeds[label]) > 1 else "")
        for label, title in result.titles.items()
    )
    set_ = {key: value for key, value in result.settings.items() if value not in (None, "", (), [])}
    scarce = f"; {result.sample.scarce} classes have fewer" if result.sample.scarce else ""
    per_class = result.settings["per_class"]
    images = f"{len(result.sample.ids):,} of {len(result.sample.classes):,} classes, "
    images += f"{per_class} of each class{scarce}" if per_class else "all of the part"
    return [
        ("Models", models),
        ("Images", images),
        ("Settings", ", ".join(f"{key} {json.dumps(value, default=str)}" for key, value in set_.items())),
        ("Command", result.stamp.command or ""),
        ("Commit", result.stamp.commit or "not a checkout"),
        ("Machine", result.stamp.machine),
        ("Versions", result.stamp.versions),
        ("Started", result.started),
        ("Finished", result.finished),
    ]
