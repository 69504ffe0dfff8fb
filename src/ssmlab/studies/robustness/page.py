"""The files of a test of robustness: records, tables, plot, grid and one self-contained page."""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core import formats
from ssmlab.core.statistics import Area, Interval, delong, differences, holm, statistics_of
from ssmlab.reports.markup import el
from ssmlab.reports.primary_metric import interval_of, p_is, too_few, undecided
from ssmlab.reports.sections import figure, named
from ssmlab.reports.tables import Table, to_html, to_markdown
from ssmlab.robustness.conditions import Condition
from ssmlab.studies.compare.seed_groups import SeedGroup
from ssmlab.studies.robustness.grid import tiles, tiles_html, tiles_png
from ssmlab.studies.robustness.plot import best_and_worst
from ssmlab.studies.robustness.sample import Sample
from ssmlab.studies.robustness.table import LEGEND, by_model, by_transformation, summary
from ssmlab.studies.study import Report, card, page, section

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
        "severities, divide the errors and their rises by AlexNet's first. Of several labels an image the error is 1 - "
        "the mean area under the ROC curve over labels.",
    ),
    ("Drop", "Top-1 on the original images minus top-1 on the changed ones."),
    ("Same answer", "The fraction of images with the class that the model gave the original, right or wrong."),
    (
        "ECE",
        "Expected calibration error: 15 bins of the confidence, in each the distance of accuracy and mean confidence, "
        "weighted by the images in it, less what few images alone make of it.",
    ),
    (
        "Intervals",
        "95 %. Images are drawn with replacement, the same ones for all transformations, corrected for few of them; of "
        "several seeds their standard error is added in squares. p is of a permutation of images, of areas "
        "under the ROC curve by DeLong's test, corrected by Holm for all pairs of models.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Result(Report):
    """A finished test. Records have the transformation as their `class_`.

    Args:
        right: label of a group -> for each seed, the fraction of the changed versions of each image that are classified
            correctly, (n,).
        areas: of images with several labels, label of a group -> the mean area under the changes; None where no label
            is on some images and missing on others.
        conditions: in the order of the tables.
        doubts: why numbers of models decide nothing, see `reports.caveats.doubt`.
    """

    hidden = (None, "", (), [])

    groups: list[SeedGroup]
    sample: Sample
    conditions: list[Any]
    right: dict[str, list[np.ndarray]]
    areas: dict[str, Area | None]
    doubts: tuple[str, ...] = ()

    @property
    def titles(self) -> dict[str, str]:
        return {group.label: group.title for group in self.groups}

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
        made = summary(self.records, self.titles)
        return made.unmarked() if self.doubts else made

    @cached_property
    def by_transformation(self) -> list[Table]:
        made = by_transformation(self.records, self.titles, self.names)
        return [each.unmarked() if self.doubts else each for each in made]

    @property
    def counts(self) -> str:
        return f"{len(self.sample.ids):,} images, {formats.plural(len(self.transformations), 'transformation')}"

    @property
    def drawn(self) -> str:
        """How the images were drawn, in words."""
        per_class, sample = self.settings["per_class"], self.sample
        scarce = f"; {sample.scarce} classes have fewer" if sample.scarce else ""
        many = f"{len(sample.ids):,} of {len(sample.classes):,} classes, "
        return many + (f"{per_class} of each class{scarce}" if per_class else "all of the part")

    def examples(self) -> list[tuple[str, np.ndarray]]:
        """The first image of the sample under every condition but attacks."""
        from ssmlab.data.images.decode import fit_square

        known = [ref.preprocess for group in self.groups for ref in group.models if ref.preprocess]
        size = max((how["image_size"] for how in known), default=224)
        fit = next((how.get("fit", "crop") for how in known), "crop")
        image = np.asarray(fit_square(self.sample.splits[0].image(0), size, fit))
        severities = sorted({c.severity for c in self.conditions if isinstance(c, Condition)} - {0})
        shown = {0, min(severities, key=lambda severity: abs(severity - 3))}  # of several, the middle one
        conditions = [c for c in self.conditions if isinstance(c, Condition) and c.severity in shown]
        return tiles(image, int(self.sample.keys[0]), conditions, self.settings["seed"])

    @cached_property
    def answer(self) -> tuple[str, str]:
        """Who holds best, and by how much; or why there is no verdict, and the numbers."""
        scored = by_model(self.records)
        errors = {label: interval_of(scored[label, "mean_corruption_error", None])[0] for label in self.titles}
        order = sorted(errors, key=lambda label: errors[label])
        first = f"{self.titles[order[0]]}: mean corruption error {formats.percent(errors[order[0]])}"
        second = "".join(f"{self.titles[label]} {formats.percent(errors[label])}" for label in order[1:2])
        if self.doubts:
            return f"No verdict: {'; '.join(self.doubts)}", ", then ".join(filter(None, (first, second)))
        if not second:
            return first, ""
        found = self._area_margin(*order[:2]) if self.areas else self._margin(*order[:2])
        if found is None:
            return f"{first}, then {second}", ""
        margin, corrected, seeds = found
        if few := too_few(len(self.sample.ids), "images"):
            return f"No verdict: {few}", f"{first}, then {second}"
        bounds = f"{formats.points(margin.low)} to {formats.points(margin.high)}"
        trained = "" if seeds > 1 else "; one seed trained"
        if reason := undecided(margin, formats.points, corrected, len(order) * (len(order) - 1) // 2):
            return (
                f"No clear lead: {first}, then {second}",
                f"difference {formats.points(margin.value)} points, {bounds}: {reason}",
            )
        sure = f"{formats.points(margin.value)} points, {bounds} (95 %), {p_is(corrected)}{trained}"
        return f"{first}, then {second}", sure

    def _margin(self, first: str, second: str) -> tuple[Interval, float, int] | None:
        """Mean accuracy under the transformations, first minus second, over the same images and seeds; p by Holm for
        all pairs, and how many seeds both have."""
        rows = {label: statistics_of(np.stack(right)) for label, right in self.right.items()}
        if len({each.shape[1] for each in rows.values()}) > 1:
            return None
        ordered = {label: rows[label] for label in (*(rows.keys() - {first, second}), second, first)}
        found = differences(ordered, resamples=self.settings["resamples"], bounds=(-1.0, 1.0))[first, second]
        return found.interval, found.corrected, found.seeds

    def _area_margin(self, first: str, second: str) -> tuple[Interval, float, int] | None:
        """The same of mean areas over labels, by DeLong's test."""
        order = [first, second, *(self.areas.keys() - {first, second})]
        areas = [area for label in order if (area := self.areas[label]) is not None]
        if len(areas) < len(order):
            return None
        pairs = [delong(a, b) for a, b in combinations(areas, 2)]  # that of the first two comes first
        corrected = holm([p for _, p in pairs])
        return pairs[0][0], corrected[0], min(len(area.by_seed) for area in areas[:2])


def write_result(result: Result) -> Path:
    """Write the files of a test; returns the page's path."""
    models = [
        {"label": ref.label, "group": group.label, "title": group.title, "seed": seed, "weights": ref.state}
        for group in result.groups
        for ref, seed in zip(group.models, group.seeds, strict=True)
    ]
    headline, detail = result.answer
    trained = []
    for group in result.groups:
        several = f" (seeds {', '.join(map(str, group.seeds))})" if len(group.seeds) > 1 else ""
        trained.append(f"{group.title}: {', '.join(ref.state for ref in group.models)}{several}")
    facts = result.facts(("Models", "; ".join(trained)), ("Images", result.drawn))
    tables = result.by_transformation
    head = ["# ssmlab robustness", "", f"{'. '.join(filter(None, result.answer))}.", ""]
    head += [*(f"- {name}: {text}" for name, text in facts), ""]
    markdown = "\n".join(["\n".join(head), *map(to_markdown, (result.summary, *tables))])
    whole, *panels = best_and_worst(result.records, result.titles, result.transformations)
    shown = result.examples()
    names = [named(i, title) for i, title in enumerate(result.titles.values())]
    first, *others = tables
    details = [
        el("details", el("summary", each.rows[0].group), card(to_html(each, names, what=each.rows[0].group)))
        for each in others
    ]
    opened = card(to_html(first, names, caption=LEGEND, what=first.rows[0].group))
    text = page(
        "robustness",
        ", ".join(result.titles.values()),
        eyebrow=f"{result.folder.name} · {result.counts}",
        heading="How models hold when images change",
        answer=[el("p", el("strong", headline), f"; {detail}." if detail else ".", class_="answer")],
        sections=[
            el("section", card(to_html(result.summary, names, caption=LEGEND)), class_="top single"),
            section("Best and worst", el("div", [figure(p) for p in panels], class_="grid")),
            section("By transformation", opened, *details),
            section("What the transformations do", card(tiles_html(shown))),
        ],
        method=METHOD,
        facts=facts,
        files="the numbers are in records.jsonl, the tables in table.md, the grid in grid.png",
    )
    about = {"models": models, "doubts": result.doubts, "images": len(result.sample.ids)}
    files = {"grid.png": tiles_png(shown)}
    return result.write("robustness", about, text, table=markdown, plots=[whole], files=files)
