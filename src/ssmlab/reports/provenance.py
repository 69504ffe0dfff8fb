"""The parts of the page that say where the numbers come from: method, data, recipe, seeds, versions, machine."""

from collections.abc import Sequence
from datetime import datetime

from ssmlab.core import formats
from ssmlab.core.statistics import FEWEST
from ssmlab.reports.markup import Html, el
from ssmlab.reports.run_folder import Run
from ssmlab.reports.tables import Table

_COST_METHODS = (
    (
        {"macs", "flops"},
        "MAC and FLOP",
        "Multiply-accumulates and operations of one {item}'s forward pass. The scan counts as 9·d·l·n + d·l "
        "multiply-accumulates of two operations each.",
    ),
    (
        {"peak_memory"},
        "Peak memory",
        "Most memory in use at once: on a CPU of the whole process, data included; on a GPU of the tensors.",
    ),
    (
        {"train_seconds", "test_seconds"},
        "Times",
        "Wall-clock time on the machine below; other work on it makes it longer.",
    ),
)


def method(run: Run, table: Table) -> Html | None:
    """How each number was made: what n is, what kind of interval, how speed was timed."""
    metrics, primary, many = {r.metric for r in run.records}, run.primary_metric, run.items[1]
    rows = []
    tested = [r for r in run.records if r.metric == primary.metric and r.split == "test" and r.step is None]
    if tested:
        n = f"{tested[0].n:,} {many}" if tested[0].n else f"the {many}"
        interval = run.task.interval.format(items="groups" if run.test_groups else many, name=primary.name)
        if len({r.seed for r in tested}) > 1:
            interval += " Of means over seeds the seeds' standard error is added in squares to that of the cases."
        if run.test_groups:
            n += f" of {run.test_groups:,} groups ({run.data.get('group')})"
            interval += " Items of a group are not independent: groups are what is drawn and counted."
        where = "the test part, which no choice was made on"
        if run.folds:
            where = f"{run.folds} folds, each by a model that neither learned from it nor was chosen by it"
        rows.append(("Quality", f"Measured on {n} of {where}. {interval}"))
    if len(run.labels) > 1 and not run.task.not_compared:
        several, again = len(run.seeds) > 1, run.task.resampled or many
        how = (
            f"{primary.name[:1].upper() + primary.name[1:]} of one model minus that of the other on the same {again}, "
            f"with its 95 % interval over {'groups' if run.test_groups else f'test {again}'}"
            f"{' and seeds' if several else ''}. A winner is named where it excludes zero as printed and p, corrected "
            f"for all pairs of models, {'of both tests, of cases and of folds, ' * bool(run.folds)}is at most 0.05, "
            f"and never from fewer than {FEWEST} independent cases."
        )
        if not several:
            how += " One seed was trained: that is about these models, not about training such models; run several."
        rows.append(("Margin", how))
    terms = [f"{row.label}: {row.help}" for row in table.rows if row.help]
    if terms:
        rows.append(("Measures", "; ".join(terms) + "."))
    if "images_per_second" in metrics:
        repeats = next((r.n for r in run.records if r.metric == "images_per_second" and r.n), None)
        times = f", median of {repeats} repeats" if repeats else ""
        how = f"Prediction without reading files, after warm-up{times}; in parentheses the slowest and the fastest. "
        how += "The first batch, before anything is warm, is given apart."
        rows.append((run.task.per_pass("{Items} per second"), how))
    if "tokens_per_second" in metrics:
        rows.append(("Tokens per second", "Reading whole rows in batches, after warm-up; in parentheses the range."))
    rows += [(name, how.format(item=run.task.passes[0])) for needed, name, how in _COST_METHODS if needed & metrics]
    rows += [(name, how) for needed, name, how in run.task.notes if needed & metrics]
    return el("div", _list(rows), class_="card") if rows else None


def data(run: Run) -> Html | None:
    """What the models saw: counts, balance, and the hash of the split."""
    facts, size, notes = run.data, run.data.get("image_size"), run.data.get("notes") or []
    rows = [
        ("Format", facts.get("format")),
        ("Path", facts.get("path")),
        (str(facts.get("items") or "images").capitalize(), _counts(facts.get("counts"))),
        (f"Groups ({facts.get('group')})", _counts(facts.get("groups"))),
        ("Tokens requested", _counts(facts.get("tokens"))),
        ("Documents", _counts(facts.get("documents"))),
        ("Vocabulary", facts.get("vocabulary")),
        ("Tokenizer", facts.get("tokenizer")),
        ("Row", facts.get("row")),
        ("Classes", f"{len(run.classes)}" if run.classes else None),
        ("Image size", f"{size} × {size} pixels" if isinstance(size, int) else _text(size) if size else None),
        ("Split hash", facts.get("split_hash")),
        *(("Note", str(note)) for note in (notes if isinstance(notes, (list, tuple)) else [notes])),
    ]
    balance = _balance(run)
    boxes = [
        el("div", _list(rows), class_="card"),
        el("div", balance, class_="card") if balance is not None else None,
    ]
    return el("div", boxes, class_="grid") if facts or balance is not None else None


def circumstances(run: Run) -> Html:
    """The resolved recipe and where, when and with what it ran."""
    info, last = run.info, run.records[-1]
    start, end = _moment(info.get("started")), _moment(info.get("finished"))
    duration = None
    if start is not None and end is not None and (start.tzinfo is None) == (end.tzinfo is None):
        duration = formats.seconds((end - start).total_seconds())
    models = []
    for label in run.labels:
        tokens = run.final(label, "tokens")
        scanned = f", {formats.plural(int(tokens), 'token')}" if tokens else ""
        models.append(f"{run.titles[label]} (models/{label}{scanned})")
    rows = [
        ("Seeds", ", ".join(map(str, run.seeds)) or None),
        ("Command", info.get("command") or last.command),
        ("Commit", info.get("commit") or last.commit),
        ("Machine", info.get("machine") or last.machine),
        ("Versions", info.get("versions") or last.versions),
        ("Started", _time(info.get("started"))),
        ("Finished", _time(info.get("finished")) or ("not finished" if info else None)),
        ("Duration", duration),
        ("Models", "; ".join(models) or None),
    ]
    recipe = None
    if run.recipe:
        recipe = el("details", el("summary", "Resolved recipe"), el("pre", run.recipe, tabindex="0"))
    return el("div", _list(rows), recipe, class_="card")


def _list(rows: Sequence[tuple[str, object]]) -> Html:
    shown = [(name, value) for name, value in rows if value not in (None, "", [], {})]
    return el("dl", [[el("dt", name), el("dd", _text(value))] for name, value in shown])


def _text(value) -> Html | str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_text(item)) for item in value)
    return str(value)


def _counts(counts) -> str | None:
    if not isinstance(counts, dict):
        return None
    names = {"train": "training", "val": "validation", "test": "test"}
    totals = []
    for part, count in counts.items():
        total = sum(n for n in count.values() if isinstance(n, int)) if isinstance(count, dict) else count
        totals.append((names.get(part, str(part)), total if isinstance(total, int) else None))
    return ", ".join(f"{total:,} {name}" for name, total in totals if total is not None) or None


def _balance(run: Run) -> Html | None:
    """Images per class: of every part where run.json has them, else of the test part from the supports."""
    counts = run.data.get("counts")
    parts = {k: v for k, v in counts.items() if isinstance(v, dict)} if isinstance(counts, dict) else {}
    for key in ("balance", "class_counts"):
        if not parts and isinstance(run.data.get(key), dict):
            parts = {k: v for k, v in run.data[key].items() if isinstance(v, dict)}
    if not parts:
        supports = {c: [run.final(label, "support", c) for label in run.labels] for c in run.classes}
        known = {c: [n for n in found if n is not None] for c, found in supports.items()}
        parts = {"test": {c: int(found[0]) for c, found in known.items() if found}}
    classes = run.classes or list(next(iter(parts.values()), {}))
    if not any(parts.values()):
        return None
    most = {part: max((n for n in of.values()), default=0) or 1 for part, of in parts.items()}
    head = el(
        "tr",
        el("th", "Class", scope="col", class_="left"),
        [el("th", f"{part} {run.items[1]}", scope="col") for part in parts],
    )
    rows = []
    for name in classes:
        cells = []
        for part, of in parts.items():
            n = of.get(name, 0)
            style = f"--shade:var(--muted);--share:{100 * n / most[part]:.1f}%"
            cells.append(el("td", f"{n:,}", class_="bar", style=style))
        rows.append(el("tr", el("th", name, scope="row"), cells))
    table = el("table", el("thead", head), el("tbody", rows), class_="wide")
    return el(
        "div",
        table,
        class_="scroll tall" if len(rows) > 25 else "scroll",
        tabindex="0",
        role="region",
        aria_label="Images per class",
    )


def _moment(text) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None


def _time(text) -> str | None:
    moment = _moment(text)
    if moment is None:
        return str(text) if text else None
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".strip()
