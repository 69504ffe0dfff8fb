"""A run in words: the paragraph of a paper that says what was done, and the card of its models."""

import tomllib
from collections.abc import Mapping
from typing import Any

from ssmlab.core import formats
from ssmlab.core.formats import listing
from ssmlab.core.statistics import FEWEST
from ssmlab.reports.comparison import comparison
from ssmlab.reports.differences import FURTHER, assumptions, of_run, pairs_of
from ssmlab.reports.run_folder import Run
from ssmlab.reports.tables import to_markdown
from ssmlab.reports.verdict import Winner

PARTS = {"train": "training", "val": "validation", "test": "test"}
# Keys of [training] that have a sentence of their own, or that say nothing about the result.
TOLD = {
    "epochs", "iterations", "batch_size", "optimizer", "learning_rate", "weight_decay", "schedule", "warmup", "keep",
    "stages", "clip_norm", "checkpoint_steps", "channels_last", "watch_gradients", "precision", "min_steps", "patience",
    "updates_per_evaluation", "tokens_per_batch",
}  # fmt: skip


FITTED = "logistic_regression"  # a model's `fit` that trains no network
# Settings that do nothing at this value, or without another one.
NOTHING = {"layer_decay": 1, "accumulation": 1, "documents": 1}
NEEDS = {"ema_warmup": ("ema",), "mix_probability": ("mixup", "cutmix"), "erasing": ("random_erasing",)}


def recipe_of(run: Run) -> dict[str, Any]:
    """The resolved recipe; empty where it cannot be read."""
    try:
        return tomllib.loads(run.recipe or "")
    except tomllib.TOMLDecodeError:
        return {}


def paragraph(run: Run) -> str:
    """What was trained on what, how, how it was tested and how sure the numbers are, in sentences for a paper."""
    recipe = recipe_of(run)
    return " ".join([*_data(run, _table(recipe, "data")), *_training(run, recipe), *_testing(run)])


def _table(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table of the recipe; empty where something else stands there, as in a file that was changed by hand."""
    found = recipe.get(name)
    return found if isinstance(found, dict) else {}


def trials_of(run: Run) -> dict[str, int]:
    """By model, how many trials its settings are the best of; 0: nothing is recorded of any."""
    had = _table(_table(recipe_of(run), "trials"), "had")
    return {label: had[label] if isinstance(had.get(label), int) else 0 for label in run.labels}


def declares_trials(run: Run) -> bool:
    """Whether the recipe says what every model may choose from before the run."""
    found = _table(recipe_of(run), "trials")
    return bool(found.get("grid") or found.get("own"))


def _number(value: Any, scale: float = 1) -> str:
    return f"{scale * value:g}" if isinstance(value, (int, float)) else str(value)


def _data(run: Run, config: Mapping[str, Any]) -> list[str]:
    counts, groups = (found if isinstance(found := run.data.get(name), dict) else {} for name in ("counts", "groups"))
    found, parts = [], []
    for name, word in PARTS.items():
        if isinstance(counts.get(name), int):
            of = f" of {formats.plural(groups[name], 'group')}" if name in groups else ""
            parts.append(f"{counts[name]:,} {run.data.get('items') or run.items[1]}{of} for {word}")
    if parts:
        classes = f", {len(run.classes)} classes" if run.classes else ""
        form = str(run.data.get("format") or "unknown format").replace("_", " ")
        if run.folds and len(parts) == len(PARTS):
            *learned, held = parts
            found.append(
                f"Of a cross-validation of {run.folds} folds ({form}{classes}) the first had {listing(learned)}. "
                f"{held.removesuffix(' for ' + PARTS['test'])} were predicted once each, by a model that had neither "
                "learned from it nor been chosen by it."
            )
        else:
            found.append(f"The data ({form}{classes}) had {listing(parts)}.")
    if groups:
        found.append(f"All cases with the same {run.data.get('group')} were kept in one part.")
    if size := config.get("image_size"):
        ways = {"crop": "cut to the middle square", "pad": "padded to a square", "stretch": "stretched to a square"}
        fit = ways.get(str(config.get("fit")), "made square")
        found.append(f"Images were {fit} and scaled to {size} × {size} pixels.")
    if split := run.data.get("split_hash"):
        found.append(f"The split has the hash {str(split)[:12]}.")
    return found


def _training(run: Run, recipe: Mapping[str, Any]) -> list[str]:
    config, names = _table(recipe, "training"), []
    for label in run.labels:
        parameters = run.final(label, "parameters")
        names.append(run.titles[label] + (f" ({formats.large(parameters)} parameters)" if parameters else ""))
    models = [m for m in run.info.get("models") or [] if isinstance(m, dict)]
    started = [run.titles.get(str(m.get("label")), str(m.get("label"))) for m in models if m.get("weights")]
    found = [f"We trained {listing(names)}."]
    fitted = [
        run.titles.get(str(m.get("label")), str(m.get("label"))) for m in _models(recipe) if m.get("fit") == FITTED
    ]
    if fitted:
        found.append(
            f"{listing(fitted)}: the network was not trained, scikit-learn fitted its linear classifier, with C chosen "
            "on the validation part."
        )
    if fitted and len(fitted) == len(run.labels):
        config = {}
    if started:
        found.append(f"{listing(started)} started from earlier weights.")
    if config:
        warm, rises = config.get("warmup", 0), ""
        if isinstance(warm, (int, float)) and warm:
            rises = f", after a warm-up of {f'{_number(warm, 100)} % of the' if warm < 1 else _number(warm)} steps"
        clip = config.get("clip_norm")
        stages = [stage for stage in config.get("stages") or () if isinstance(stage, dict)]
        schedule = str(config.get("schedule", "cosine")).replace("inverse_sqrt", "inverse square root")
        rate = (
            "learning rates of the stages" if stages else f"learning rate {_number(config.get('learning_rate', '?'))}"
        )
        found.append(
            f"Optimiser {config.get('optimizer', 'adamw')}, {rate} "
            f"with {'an' if schedule[0] in 'aeiou' else 'a'} {schedule} schedule{rises}, weight decay "
            f"{_number(config.get('weight_decay', '?'))}, {_length(config, stages)}"
            + (f", {precision}" if (precision := config.get("precision")) not in (None, "auto", "float32") else "")
            + (f", gradients clipped to a norm of {_number(clip)}." if clip else ".")
        )
        for stage in stages:
            rates = listing([f"{part} at {_number(value)}" for part, value in _table(stage, "train").items()])
            own = _further(_table(stage, "training"), ())
            found.append(f"Stage {stage.get('name')} trained {rates}{''.join(f', {text}' for text in own)}.")
        best = config.get("keep") == "best"
        found.append(f"The {'weights of the best epoch on the validation part' if best else 'last weights'} were kept.")
        if rest := _further(config):
            found.append(f"Further settings: {', '.join(rest)}.")
    rows = [m for m in _models(recipe) if _table(m, "training")]
    own = [f"{m.get('label') or m.get('name')}: {', '.join(_further(_table(m, 'training'), ()))}" for m in rows]
    if own:
        found.append(f"Settings of single models: {'; '.join(own)}.")
    if any((had := trials_of(run)).values()):
        counts = listing([f"{count} ({run.titles[label]})" for label, count in had.items()])
        each = f"{next(iter(had.values()))} for every model" if len(set(had.values())) == 1 else counts
        found.append(f"They were chosen on the validation part; trials: {each}.")
    elif own:
        found.append("Nothing is recorded of how these were chosen.")
    found.append(f"{'Seeds' if len(run.seeds) > 1 else 'Seed'}: {', '.join(map(str, run.seeds)) or 'unknown'}.")
    return found


def _models(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = recipe.get("models")
    return [model for model in (listed if isinstance(listed, list) else ()) if isinstance(model, dict)]


def _length(config: Mapping[str, Any], stages: list[dict]) -> str:
    """How much was learned from at once, and how often."""
    if "tokens_per_batch" in config and "updates_per_evaluation" in config:
        updates = config.get("epochs", 0) * config["updates_per_evaluation"]
        return f"{updates:,} updates of {config['tokens_per_batch']:,} tokens of either side"
    size = f"batch size {config.get('batch_size', '?')}"
    if stages and all("epochs" in _table(stage, "training") for stage in stages):
        return size
    epochs = config.get("epochs")
    times = f"{config.get('iterations', '?')} iterations" if epochs is None else formats.plural(epochs, "epoch")
    return f"{size}, {times}"


def _further(config: Mapping[str, Any], told=TOLD) -> list[str]:
    """Settings that change something, as "key value"; tables as "table.key value"."""
    found = []
    for key, value in config.items():
        needs = NEEDS.get(key)
        if (needs and not any(config.get(name) for name in needs)) or NOTHING.get(key) == value:
            continue
        if key == "momentum" and config.get("optimizer") != "sgd":
            continue
        if isinstance(value, dict):
            if key == "freeze_by_gradient" and not value.get("steps"):
                continue
            found += [f"{key}.{text}" for text in _further(value, ())]
        elif key not in told and value not in (0, 0.0, "", "none", False, [], None):
            found.append(f"{key.replace('_', ' ')} {value}")
    return found


def _testing(run: Run) -> list[str]:
    once = f"The test part ({run.tested.removeprefix('the ')}) was used once, after training."
    found = [once] if not run.folds else []
    found.append(f"Models are compared by {run.primary_metric.name}.")
    counted = "groups" if run.test_groups else run.items[1]
    found.append(run.task.interval.format(items=counted, name=run.primary_metric.name))
    if len(run.seeds) > 1:
        found.append("Means over seeds carry the error of the cases and of the seeds.")
    pairs = pairs_of(run.records, run.labels, run.primary_metric.metric)
    if pairs:
        over_folds = any(FURTHER[1] in pair.ps for pair in pairs)
        tests = (pairs[0].test or "no test") + (
            " and over folds by the corrected resampled t-test" if over_folds else ""
        )
        whose = f"Differences of all {len(pairs):,} pairs have" if len(pairs) > 1 else "The difference has"
        found.append(
            f"{whose} p-values by {tests}, corrected by Holm; a model is called better where the 95 % interval and the "
            f"corrected p{' of both tests' if over_folds else ''} (at most 0.05) agree and there are at least {FEWEST} "
            "independent cases."
        )
    if any(record.metric == "temperature" for record in run.records):
        found.append("Probabilities were calibrated by a temperature fitted on the validation part.")
    versions, machine = run.info.get("versions"), run.info.get("machine")
    found.append(f"Software: {versions or 'unknown'}; machine: {machine or 'unknown'}.")
    return found


def model_card(run: Run, verdict: Winner) -> str:
    """The card of a run's models in Markdown: what they are, what they learned from, how good they are, and limits."""
    data, info = run.data, run.info
    classes = f", classes {', '.join(run.classes)}" if 0 < len(run.classes) <= 20 else ""
    shown = to_markdown(comparison(run.records, run.task, run.titles)).replace("## ", "### ")
    limits = [f"{verdict.sentence}"]
    if len(run.seeds) < 2:
        limits.append("One seed was trained: how much another training of the same models would differ is not known.")
    limits.append(
        "Numbers are of one test part; on images of other machines, places or patients they can be worse, which was "
        "not tested."
    )
    limits += [str(note) for note in data.get("notes") or []]
    use = f"ssmlab classify {run.folder} FILE..." if run.classes else f"ssmlab report {run.folder}"
    kept = ("command", "commit", "machine", "versions", "finished")
    lines = [
        "---", "library_name: ssmlab", f"tags: [{info.get('task') or 'model'}]", "---",
        f"# {run.name}", "", str(info.get("description") or "").strip(), "",
        "## Models", "",
        *(f"- {run.titles[m]}: folder `models/{m}{'_seed<seed>' if len(run.seeds) > 1 else ''}`" for m in run.labels),
        "", "## Intended use", "",
        f"Research on {info.get('task') or 'this task'}{classes}. Not a medical device; nothing here was tested for "
        "use on patients.", "",
        "## Training and data", "", paragraph(run), "",
        "## Results on the test part", "", shown,
        assumptions(of_run(run)) if pairs_of(run.records, run.labels, run.primary_metric.metric) else "", "",
        "## Limits", "", *(f"- {text}" for text in limits), "",
        "## How to use", "", "```", use, "```", "",
        "## Circumstances", "",
        *(f"- {key}: {info[key]}" for key in kept if info.get(key)), "",
    ]  # fmt: skip
    return "\n".join(lines)
