"""Every two models of a run: by how much they differ, how sure that is, and whether any answer was possible."""

from collections.abc import Callable
from dataclasses import dataclass

from ssmlab.core import formats
from ssmlab.core.record import Record
from ssmlab.core.statistics import LEVEL, cases_needed, least_p
from ssmlab.reports.markup import Html, el, join
from ssmlab.reports.primary_metric import PrimaryMetric, probability, signed
from ssmlab.reports.tables import Sheet
from ssmlab.reports.task_report import Compared

HOLM, ALONE = "Holm", "these models"  # classes of p-values: corrected for all pairs; without the error of the seeds
FURTHER = ("Wilcoxon", "Nadeau-Bengio")  # classes of the p-values of further tests, which have "..., Holm" too
SUFFIX = "_difference"


def p_metric(metric: str) -> str:
    """The metric of the p-values of a difference."""
    return f"p_of_{metric}{SUFFIX}"


@dataclass(frozen=True)
class Pair:
    """Two models' difference in a metric, as it was recorded.

    Args:
        second, first: labels; the difference is the second model's number minus the first's.
        ps: class of the p-value -> it: None, HOLM, ALONE and those of further tests.
        test: by which the first of them was made.
    """

    second: str
    first: str
    difference: Record
    ps: dict[str | None, float]
    test: str

    def turned(self, label: str) -> tuple[float, float, float] | None:
        """Value and bounds as the difference of `label` to the other; None where there are no bounds."""
        if self.difference.spread is None:
            return None
        sign = 1 if label == self.second else -1
        low, high = sorted(sign * bound for bound in self.difference.spread)
        return sign * self.difference.value, low, high

    @property
    def corrected(self) -> float | None:
        """p corrected for all pairs; of folds the larger of both tests, since that of the cases knows nothing of what
        other training parts would have made of the models."""
        over_cases, over_folds = self.ps.get(HOLM), self.ps.get(f"{FURTHER[1]}, {HOLM}")
        return over_cases if over_cases is None or over_folds is None else max(over_cases, over_folds)


def pairs_of(records: list[Record], labels: list[str], metric: str) -> list[Pair]:
    """The differences of a metric of the test part by pair; of repeated records the last counts.

    With several seeds one record may be of all (seed null), next to one for each seed: then that one counts, and
    none where there are only single seeds.
    """
    names = {f"{b} - {a}": (b, a) for a in labels for b in labels if a != b}
    found: dict[str, list[Record]] = {}
    ps: dict[str, dict[str | None, Record]] = {}
    for record in records:
        if record.model in names and record.split != "val" and record.step is None:
            if record.metric == f"{metric}{SUFFIX}" and record.class_ is None:
                found.setdefault(record.model, []).append(record)
            elif record.metric == p_metric(metric):
                ps.setdefault(record.model, {})[record.class_] = record
    pairs = []
    for name, rows in found.items():
        pooled = [row for row in rows if row.seed is None] or rows
        if len({row.seed for row in pooled}) == 1:
            own = ps.get(name, {})
            test = next((row.unit for row in own.values() if row.unit), None) or ""
            pairs.append(Pair(*names[name], pooled[-1], {key: row.value for key, row in own.items()}, test))
    return pairs


def impossible(cases: int | None, comparisons: int, seeds: int, many: str) -> str:
    """Why no p-value of these cases can be small enough, whatever models answer; nothing where one can.

    Of several seeds the error of the seeds is drawn, which can make p half of what the cases alone allow.
    """
    if not cases:
        return ""
    least = least_p(cases, comparisons) / (2 if seeds > 1 else 1)
    if least <= LEVEL:
        return ""
    of = f"{comparisons} comparisons" if comparisons > 1 else "a comparison"
    return (
        f"of {cases:,} test {many} no p-value of {of} can be below {probability(least)}, whatever the models answer; "
        f"it takes {cases_needed(comparisons)}"
    )


@dataclass(frozen=True, kw_only=True)
class Tested:
    """Models that were tested on the same cases, and what differences of them are over.

    Args:
        titles: label -> what to call the model.
        compared: metrics whose differences are shown. gap: a difference in those that do not say how it is printed.
        many: what cases are called, such as "images". seeds: the most that a model was trained with.
        groups: how many the test part has, by the column `column`; None where cases are independent.
    """

    records: list[Record]
    titles: dict[str, str]
    compared: tuple[Compared, ...]
    many: str
    seeds: int = 1
    groups: int | None = None
    column: str | None = None
    gap: Callable[[float], str] = signed

    @property
    def pairs(self) -> list[tuple[Compared, list[Pair]]]:
        """The pairs of every metric that has some."""
        every = [(each, pairs_of(self.records, list(self.titles), each.metric)) for each in self.compared]
        return [(each, pairs) for each, pairs in every if pairs]


def of_run(run) -> Tested:
    """The models of a `Run`."""
    metric = run.primary_metric
    return Tested(
        records=run.records,
        titles={label: run.titles[label] for label in run.labels},
        compared=run.task.compared or (Compared(metric.metric, metric.name.capitalize()),),
        many=run.task.resampled or run.items[1],
        seeds=len(run.seeds),
        groups=run.test_groups,
        column=run.data.get("group"),
        gap=metric.gap,
    )


def section(tested: Tested) -> Html | None:
    """Every two models' differences in every metric that is compared, with intervals, p-values and assumptions."""
    found = sheets(tested)
    if not found:
        return None
    boxes = [piece for sheet in found for piece in (el("h3", sheet.title, class_="apart"), sheet.html)]
    return join([el("p", assumptions(tested), class_="lede"), *boxes])


def assumptions(tested: Tested) -> str:
    """What the intervals and p-values of differences mean, and what they assume."""
    several = tested.seeds > 1
    over_folds = any(FURTHER[1] in pair.ps for _, pairs in tested.pairs for pair in pairs)
    drawn_from = f"groups ({tested.column})" if tested.groups else f"test {tested.many}"
    return " ".join((
        "The first model minus the second on the same cases. Intervals are of 95 %: cases are drawn with replacement, "
        f"{'whole groups of them, ' if tested.groups else ''}the same for both, with a correction for few cases"
        + ("; the seeds' error is added." if several else "."),
        "p is of no difference; next to it corrected for the number of pairs, by Holm."
        + (
            " “These models” leaves the seeds out and says nothing about models that are trained anew."
            if several
            else " One seed was trained: both are about these trained models, not about training such models."
        ),
        *(["“Nadeau-Bengio” is over folds: it counts too that other training images make other models. A winner "
           "is named where both are small enough."] * over_folds),
        f"Assumed: {drawn_from} are independent and drawn from where future ones come from"
        + ("; seeds are independent." if several else "."),
    ))  # fmt: skip


def sheets(tested: Tested) -> list[Sheet]:
    """A table of all pairs for every metric that is compared."""
    return [_sheet(tested, compared, pairs) for compared, pairs in tested.pairs]


def _sheet(tested: Tested, compared: Compared, pairs: list[Pair]) -> Sheet:
    gap = compared.gap or tested.gap
    heads = ["Difference", "95 % interval", "p", "p, Holm"]
    kinds: list[str | None] = [None, HOLM]
    further = [class_ for test in FURTHER for class_ in (test, f"{test}, {HOLM}")]
    for class_, head in ((ALONE, "p, these models"), *zip(further, further, strict=True)):
        if any(class_ in pair.ps for pair in pairs):
            heads.append(head)
            kinds.append(class_)
    rows = []
    for pair in pairs:
        spread = pair.difference.spread
        interval = f"[{gap(spread[0])}, {gap(spread[1])}]" if spread else formats.UNKNOWN
        ps = [probability(pair.ps[kind]) if kind in pair.ps else formats.UNKNOWN for kind in kinds]
        name = f"{tested.titles[pair.second]} − {tested.titles[pair.first]}"
        rows.append((name, (gap(pair.difference.value), interval, *ps)))
    cases, test = pairs[0].difference.n, pairs[0].test
    what = f"groups ({tested.column})" if tested.groups and cases == tested.groups else tested.many
    never = "" if test.startswith("DeLong") else impossible(cases, len(pairs), tested.seeds, what)
    notes = [f"{cases:,} {what}" if cases else "", test, never and never[0].upper() + never[1:]]
    return Sheet(compared.label, "Test part", tuple(heads), tuple(rows), "; ".join(filter(None, notes)) + ".")


def best_gap(metric: PrimaryMetric, label: str, pair: Pair) -> tuple[float, float, float] | None:
    """By how much `label` is better, with its bounds: positive where it is, whichever way the metric goes."""
    found = pair.turned(label)
    if found is None or metric.higher_is_better:
        return found
    value, low, high = found
    return -value, -high, -low
