"""What reports say of translation models: scores, who is better and how sure that is, lengths, dropout, examples."""

import math
from collections.abc import Callable, Sequence

from ssmlab.core import formats
from ssmlab.core.record import Record
from ssmlab.reports import seconds, theme
from ssmlab.reports.markup import Html, el, join
from ssmlab.reports.plots import Plot
from ssmlab.reports.primary_metric import PrimaryMetric, interval_of, probability
from ssmlab.reports.run_folder import Run
from ssmlab.reports.seconds import Curve
from ssmlab.reports.sections import figure, legend
from ssmlab.reports.tables import plain_table
from ssmlab.reports.task_report import COST, QUALITY, Compared, Measure, TaskReport
from ssmlab.tasks.shared.measures import LOSS
from ssmlab.tasks.translate import examples, runs
from ssmlab.tasks.translate.together import Arm, arms_of, differing

CURVES = (
    Curve("loss", "train", "Loss of training, nats"),
    Curve("bleu", "val", "BLEU, validation part, greedy", formats.decimal(2)),
)
PLACES = ("embedding", "branch", "skip", "inner", "attention")
_two = formats.decimal(2)


def gap(value: float) -> str:
    """A difference with two decimals and its sign."""
    number = f"{abs(value):.2f}"
    return number if number == "0.00" else ("+" if value > 0 else "−") + number


def ranged(record: Record | None, text: Callable[[float], str] = gap) -> str:
    """A value with its interval."""
    if record is None:
        return formats.UNKNOWN
    if record.spread is None:
        return text(record.value)
    return f"{text(record.value)} [{text(record.spread[0])}, {text(record.spread[1])}]"


def compared(records: Sequence[Record]) -> dict[str, dict[tuple[str, str | None], Record]]:
    """Pair "b - a" -> (metric, class) -> the last record of a difference or of its p-value."""
    found: dict[str, dict[tuple[str, str | None], Record]] = {}
    for record in records:
        if record.model and record.metric.endswith("_difference") and record.split == "test":
            found.setdefault(record.model, {})[record.metric, record.class_] = record
    return found


def signatures(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """How scores were computed, as sacreBLEU says it; scores with other signatures are not comparable."""
    found = [next((r.unit for r in run.records if r.metric == name and r.split == "test" and r.unit), "")
             for name in ("bleu", "chrf")]  # fmt: skip
    texts = [f"{name} {text}" for name, text in zip(("BLEU", "chrF++"), found, strict=True) if text]
    return el("div", el("p", "; ".join(texts) + "."), class_="card") if texts else None


def by_class(run: Run, metric: str, beginning: str = "") -> dict[str, dict[str, Record]]:
    """A metric of the test part by class and model, the mean over seeds with its interval.

    Args:
        beginning: of the classes' names.
    """
    found: dict[str, dict[str, Record]] = {}
    for (label, name, class_), by_seed in run.finals.items():
        if name == metric and class_ and class_.startswith(beginning) and label in run.titles:
            value, low, high = interval_of(by_seed.values())
            spread = (low, high) if math.isfinite(low) else None
            n = next(iter(by_seed.values())).n
            found.setdefault(class_, {})[label] = Record(metric=metric, value=value, n=n, spread=spread)
    return found


def source_lengths(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """BLEU by the number of words of the source."""
    return _classes(run, by_class(run, "bleu", "sources of "), "Words of the source", _two, drawn.get("bleu-by-length"))


def robustness(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """BLEU that is lost where sources are typed carelessly."""
    found = by_class(run, "bleu_lost")
    note = "BLEU that is lost, on the same sentences. Every line's typos are drawn by the seed and the line's number."
    return _classes(run, found, "Sources with", gap, None, note)


def _classes(
    run: Run, found: dict[str, dict[str, Record]], corner: str, text: Callable[[float], str],
    plot: Plot | None, note: str = "",
) -> Html | None:  # fmt: skip
    if not found:
        return None
    labels = [label for label in run.labels if any(label in row for row in found.values())]
    rows = []
    for class_, row in found.items():
        n = next(iter(row.values())).n
        rows.append(
            (class_.removeprefix("sources of "), [formats.whole(n or 0), *(ranged(row.get(m), text) for m in labels)])
        )
    heads = ["Sentences", *(run.titles[label] for label in labels)]
    table = plain_table(corner, heads, rows, caption=note or None, class_="wide wrapped")
    box = el("div", el("div", table, class_="scroll", tabindex="0"), class_="card")
    return join([legend(run), el("div", figure(plot), class_="alone") if plot else None, box])


def dropouts(run: Run) -> list[tuple[str, str, Record | None, Record | None]]:
    """What dropout does for each network: its name, what was changed, BLEU's difference and p.

    Compared with the first model of the same name and options, in the recipe and in those of other runs that were
    tested on the same sentences.
    """
    first: dict[str, Arm] = {}
    pairs, rows = compared(differing(run).records), []
    for arm in arms_of(run):
        base = first.setdefault(f"{arm.table.get('name')} {sorted(arm.table.get('options', {}).items())}", arm)
        before, after = (each.table.get("dropout", {}) for each in (base, arm))
        places = {place: (before.get(place, 0), after.get(place, 0)) for place in PLACES}
        changed = ", ".join(f"{place} {a:g} → {b:g}" for place, (a, b) in places.items() if a != b)
        if changed:
            found, sign = pairs.get(f"{arm.name} - {base.name}"), 1
            if found is None:
                found, sign = pairs.get(f"{base.name} - {arm.name}", {}), -1
            record, p = found.get(("bleu_difference", None)), found.get(("p_of_bleu_difference", None))
            rows.append((base.title, changed, _turned(record, sign), p))
    return rows


def _turned(record: Record | None, sign: int) -> Record | None:
    if record is None or sign == 1:
        return record
    spread = None if record.spread is None else (-record.spread[1], -record.spread[0])
    return Record(metric=record.metric, value=-record.value, n=record.n, spread=spread)


def dropout(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """The effect of dropout by its place."""
    rows = [
        (f"{title}: {changed}", [ranged(record), probability(p.value) if p else formats.UNKNOWN])
        for title, changed, record, p in dropouts(run)
    ]
    if not rows:
        return None
    table = plain_table("With minus without", ["BLEU", "p"], rows, class_="wide wrapped")
    box = el("div", el("div", table, class_="scroll", tabindex="0"), class_="card")
    plot = drawn.get("dropout")
    return el("div", [figure(plot), box] if plot else box, class_="grid" if plot else None)


def plots(run: Run) -> list[Plot]:
    """Loss and BLEU against seconds, BLEU by the source's length, the effects of dropout, other runs."""
    made = seconds.plots(run, CURVES, "Translating the validation part is not counted.")
    lengths, effects = by_class(run, "bleu", "sources of "), [row for row in dropouts(run) if row[2]]
    if lengths:
        made.append(_by_length(run, lengths))
    if effects:
        made.append(_effects(effects))
    return made + runs.plots(run)


def _by_length(run: Run, found: dict[str, dict[str, Record]]) -> Plot:
    names = [name.removeprefix("sources of ").removesuffix(" words").replace(" to ", "–") for name in found]

    def paint(figure):
        axes = figure.add_subplot()
        for index, label in enumerate(run.labels):
            x = [i for i, row in enumerate(found.values()) if label in row]
            y = [row[label].value for row in found.values() if label in row]
            axes.plot(x, y, color=theme.colour(index), marker=theme.marker(index), markersize=5)
        axes.set_xticks(range(len(names)), [name.replace(" words and more", " +") for name in names])
        axes.set(xlabel="words of the source", title="BLEU, test part")

    caption = "Means over seeds; the table has the numbers, and how many sentences each rests on."
    return Plot("bleu-by-length", theme.draw((380, 240), paint, "bylength"), f"BLEU by length. {caption}", caption)


def _effects(rows: Sequence[tuple[str, str, Record | None, Record | None]]) -> Plot:
    def paint(figure):
        axes = figure.add_subplot()
        axes.axvline(0, color=theme.INK, linewidth=1.2)
        for place, (_, _, record, _) in enumerate(rows):
            assert record is not None
            axes.plot(
                record.spread or (record.value,) * 2, (place, place), color=theme.colour(0), linewidth=4, alpha=0.45
            )
            axes.plot([record.value], [place], theme.marker(0), color=theme.colour(0), markersize=7)
        axes.set_yticks(range(len(rows)), [f"{title}\n{changed}" for title, changed, _, _ in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="BLEU with minus without")
        axes.grid(axis="y", visible=False)

    caption = "95 % intervals over sentences and seeds; to the right of the line dropout helps."
    drawing = theme.draw((380, 60 + 40 * len(rows)), paint, "dropout")
    return Plot("dropout", drawing, f"Effect of dropout on BLEU. {caption}", caption)


def _score(metric: str, label: str, help: str = "") -> Measure:
    return Measure(metric, label, QUALITY, 1, _two, help=help, interval=True, bounded=False)


WENT_WRONG = {
    "empty": ("Empty", "translations of a sentence that has one"),
    "cut": ("Cut", "ended because they were as long as allowed"),
    "looping": ("Looping", "at least three repeated 3-grams of words more than in the reference"),
    "copied": ("Copied", "the source as it is, where the reference is not"),
    "same": ("The same", "the translation of another source too, whose reference is another"),
}
REPORT = TaskReport(
    items=("sentence", "sentences"),
    passes=("pair", "pairs"),
    primary=(
        PrimaryMetric(
            "bleu", "BLEU", True, "points", "", lambda value: f"BLEU {_two(value)}", gap, (0.0, 100.0)
        ),
    ),
    measures=(
        _score("bleu", "BLEU", "sacreBLEU, 13a, cased"),
        _score("chrf", "chrF++", "n-grams of characters and words"),
        _score("bleu_tokenised", "BLEU of old tables", "tokens of Moses, lower-cased: only for comparison with these"),
        Measure("comet", "COMET", QUALITY, 1, formats.decimal(4), interval=True),
        LOSS,
        Measure("token_accuracy", "Next tokens right", QUALITY, 1, formats.percent, help="share foretold correctly"),
        Measure("length_ratio", "Length", QUALITY, 0, formats.decimal(3), help="words by those of the references"),
        *(Measure(name, label, QUALITY, -1, formats.whole, help=text) for name, (label, text) in WENT_WRONG.items()),
        Measure("parameters_without_embeddings", "Without embeddings", COST, -1, formats.large, help="parameters"),
        Measure("macs_per_pair", "MAC per pair", COST, -1, formats.large, part="scan_macs_per_pair",
                help="multiply-accumulates of a pair of the test part's mean length"),
        Measure("tokens_per_second", "Target tokens per second", COST, 1, formats.rate, "*", "test part,"),
    ),
    compared=(Compared("bleu", "BLEU", gap), Compared("chrf", "chrF++", gap)),
    interval="Sentences are drawn with replacement for the 95 % intervals of BLEU and chrF++, corrected for few.",
    by_updates=True,
    several=True,
    sheets=(runs.sheets,),
    plots=(plots,),
    sections=(
        ("dropout", "What dropout does", dropout),
        ("seconds", "Against seconds", seconds.section),
        ("source-lengths", "By length of the source", source_lengths),
        ("robustness", "Careless sources", robustness),
        ("runs", "Next to other runs", runs.section),
        ("signatures", "Signatures", signatures),
        ("examples", "Side by side", examples.examples),
    ),
)  # fmt: skip
