"""What a verdict rests on: runs that decide nothing are called so in its place; what flatters it comes next to it.

The same holds for studies of trained models (compare, robustness, compress, explain): `doubt` finds what
the run of a model has of these.

trial       the recipe's tiny form, --smoke
chance      the best model is not clearly better than knowing only how frequent the answers are
stuck       the loss of the best model, which began at random, did not fall while it was trained
overfitted  a compared model was kept long after its best epoch on the validation part
unequal     models had unequal numbers of trials for their settings, or of seeds
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssmlab.core.errors import UserError
from ssmlab.core.formats import listing, plural
from ssmlab.reports.methods import declares_trials, trials_of
from ssmlab.reports.primary_metric import interval_of
from ssmlab.reports.run_folder import SEED_SUFFIX, Run, load_run
from ssmlab.reports.task_report import ReportOf
from ssmlab.reports.verdict import Winner, winner

JUDGED = ("clear", "unclear", "single")  # kinds of verdicts that say which model is better, or how good one is
CHANCE = "is at chance"
WORSE = 0.05  # so much above its least is a loss that rises, and so many points an accuracy that falls
FELL = 0.01  # the share by which a training loss falls at least where something is learned


def judged(run: Run) -> Winner:
    """The verdict of a run, or why there is none."""
    verdict = winner(run.records, run.task, run.predictions, run.titles, run.tested)
    if verdict.kind not in JUDGED:
        return verdict
    compared = [label for label in (verdict.leader, verdict.runner_up) if label]
    overfitted = (_overfitted(run, label) for label in compared)
    for kind, headline, why in (
        ("trial", "A trial, no verdict", _trial(run)),
        ("unequal", "Unequal trials or seeds, no verdict", unequal(run)),
        ("chance", "Not better than chance, no verdict", _chance(run, compared[0], ", the best,")),
        ("stuck", "No progress, no verdict", _stuck(run, compared[0])),
        ("overfitted", "Overfitted, no verdict", next(filter(None, overfitted), "")),
    ):
        if why:
            values = {label: run.final(label, run.primary_metric.metric) for label in run.labels}
            results = [f"{run.titles[m]} has {run.primary_metric.text(v)}" for m, v in values.items() if v is not None]
            detail = f"{why} On the test part {listing(results)}."
            verdict = replace(verdict, kind=kind, headline=headline, detail=detail, difference=None)
            break
    details = [verdict.detail]
    had = set(trials_of(run).values())
    if len(had) == 1 and had != {0}:
        details.append(f"Every model's settings are the best of {plural(had.pop(), 'trial')} on the validation part.")
    elif had == {0} and declares_trials(run):
        details.append("Settings were not chosen: of the trials that the recipe declares (ssmlab sweep) none was made.")
    known = {r.class_ for r in run.records if r.class_ and r.class_.startswith("length ") and r.metric == "accuracy"}
    lengths, trained = sorted(int(name.split()[1]) for name in known), run.data.get("length")
    if lengths and trained and lengths[-1] != trained:  # synthetic tasks: the verdict is of the trained length
        longest = {m: run.final(m, "accuracy", f"length {lengths[-1]}") for m in run.labels}
        texts = [f"{run.titles[m]} {run.primary_metric.text(v)}" for m, v in longest.items() if v is not None]
        details.append(f"This is the trained length, {trained:,}; at {lengths[-1]:,}: {listing(texts)}.")
    copies = run.data.get("copies")
    if isinstance(copies, dict) and (found := copies.get("test")):
        count = f"{found['exact'] + found['near']:,} of {found['of']:,}"
        details.append(f"Flattered: {count} in the test part are copies of what models learned from.")
    return replace(verdict, detail=" ".join(details))


def unequal(run: Run) -> str:
    """Which models had more trials for their settings, or more seeds, than others; empty where all had as many."""
    found = []
    seeds = {m: len(run.finals.get((m, run.primary_metric.metric, None), {})) for m in run.labels}
    for what, counts in (("trials", trials_of(run)), ("seeds", seeds)):
        if len(set(counts.values())) > 1:
            told = listing([f"{run.titles[label]} {count}" for label, count in counts.items()])
            found.append(f"Numbers of {what} are unequal: {told}.")
    return " ".join(found)


def doubt(folder: Path | None, title: str, report_of: ReportOf) -> str:
    """Why the numbers of a trained model decide nothing, in one clause that begins with its title; empty if they may.

    Args:
        folder: of the model. What its run wrote is read; nothing is known of a model outside a run, or of None.
        report_of: finds what reports know of a task by its name, as `tasks.table.report_of` does.
    """
    if folder is None or (run := run_of(folder, report_of)) is None:
        return ""
    folder = folder.resolve()
    label = SEED_SUFFIX.sub("", folder.name)
    return doubt_in(run, label if label in run.labels else folder.name, title)


def run_of(folder: Path, report_of: ReportOf) -> Run | None:
    """The run that the model in a folder belongs to; None for one outside of a run."""
    if folder.resolve().parent.name != "models":
        return None
    try:
        return load_run(folder.resolve().parent.parent, report_of, whole=False)
    except UserError:  # not a run's folder, or one that cannot be read any more
        return None


def doubt_in(run: Run, label: str, title: str) -> str:
    """The same of a model of a run that was read already."""
    run = replace(run, titles=run.titles | {label: title})
    if _trial(run):
        return f"{title} comes from a trial run (--smoke)"
    for kind, why in (
        (CHANCE, _chance(run, label)),
        ("made no progress", _stuck(run, label)),
        ("is overfitted", _overfitted(run, label)),
    ):
        if why:
            return f"{title} {kind} ({why.removesuffix('.')})"
    return ""


def doubts(models: Iterable[tuple[Path | None, str]], report_of: ReportOf) -> tuple[str, ...]:
    """`doubt` of every compared model that has one, each once. As in a run's verdict, one at chance only loses, as long
    as not all are."""
    found = [doubt(folder, title, report_of) for folder, title in models]
    if not all(CHANCE in each for each in found):
        found = [each for each in found if CHANCE not in each]
    return tuple(dict.fromkeys(filter(None, found)))


def _trial(run: Run) -> str:
    if not run.info.get("trial"):
        return ""
    return "tiny models were trained for moments on little data (--smoke), to see that everything runs."


def _chance(run: Run, label: str, which: str = "") -> str:
    known, metric = chance(run), run.primary_metric
    value = run.final(label, metric.metric)
    if known is None or value is None or not math.isfinite(value):
        return ""
    level, what = known
    found = run.finals[label, metric.metric, None].values()
    _, low, high = interval_of(found, metric.bounds, fraction=metric.fraction)
    low, high = (value if math.isnan(bound) else bound for bound in (low, high))
    if metric.sign * (low if metric.higher_is_better else high) > metric.sign * level:
        return ""
    return (
        f"{run.titles[label]}{which} reaches {metric.text(value)} "
        f"({metric.text(low)} to {metric.text(high)}), and {what} reaches {metric.text(level)}."
    )


def chance(run: Run) -> tuple[float, str] | None:
    """What a model reaches on the test part that has learned nothing but frequencies, and how; None if unknown."""
    known = run.data.get("chance")
    if isinstance(known, dict) and known.get("metric") == run.primary_metric.metric:
        return float(known["value"]), f"knowing {known['of']}"
    wanted = f"constant_{run.primary_metric.metric}"
    constant = next((r for r in run.records if r.metric == wanted and r.split == "test"), None)
    if constant is not None:
        return constant.value, f"marking everything as {constant.class_}"
    if run.primary_metric.metric != "accuracy":
        return None
    of_class = {r.class_: r.value for r in run.records if r.metric == "support" and r.split == "test" and r.class_}
    counts = [n for name, n in of_class.items() if name not in ("macro", "weighted")]
    if not counts or not sum(counts):
        return None
    return max(counts) / sum(counts), "always naming the most frequent class"


def _stuck(run: Run, label: str) -> str:
    begun = {model.get("label"): model.get("weights") for model in run.info.get("models", []) if "weights" in model}
    if begun.get(label, True):  # what was trained before may have nothing left to learn
        return ""
    for _, losses in _curves(run, label, "train", "loss"):
        tenth = max(1, len(losses) // 10)
        first, last = float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))
        if len(losses) >= 10 and last > first - FELL * abs(first):
            return (
                f"the training loss of {run.titles[label]} did not fall: {first:.3f} at first, {last:.3f} "
                "at last; try another training.learning_rate."
            )
    return ""


def _overfitted(run: Run, label: str) -> str:
    metric = run.primary_metric
    for seed, values in _curves(run, label, "val", metric.metric):
        own = [r for r in run.records if (r.model, r.split, r.step, r.class_) == (label, "val", None, None)]
        kept = next((r.value for r in reversed(own) if (r.metric, r.seed) == (metric.metric, seed)), None)
        best = max(values) if metric.higher_is_better else min(values)
        train = next((losses for own, losses in _curves(run, label, "train", "loss") if own == seed), [])
        if kept is None or len(values) < 2 or len(train) < 2:
            continue
        after = train[round(len(train) * (values.index(best) + 1) / len(values)) - 1]
        limit = WORSE * best
        if metric.higher_is_better:  # and by more than the standard error of a share of so many images
            limit = WORSE + 2 * math.sqrt(max(best * (1 - best), 1e-4) / next((r.n for r in own if r.n), 1))
        if metric.sign * (best - kept) > limit and train[-1] < after:
            return (
                f"on the validation part {run.titles[label]} had {metric.text(best)} after epoch "
                f"{values.index(best) + 1} of {len(values)} and has {metric.text(kept)} as it was kept, while the "
                "training loss fell on; training.keep=best keeps the best epoch."
            )
    return ""


def _curves(run: Run, label: str, part: str, metric: str) -> list[tuple[int | None, list[float]]]:
    """The values of every seed in the order of their steps."""
    found: dict[int | None, dict[int, float]] = {}
    for r in run.records:
        if (r.model, r.split, r.metric) == (label, part, metric) and r.step is not None:
            found.setdefault(r.seed, {})[r.step] = r.value
    return [(seed, [values[step] for step in sorted(values)]) for seed, values in found.items()]
