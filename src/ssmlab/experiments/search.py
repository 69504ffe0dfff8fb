"""A sweep with a budget: Optuna proposes the trials, and one that falls behind the others is ended early.

A proposal follows from the trials before it and its number, so that a search that was killed goes on as it would have.
"""

import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ssmlab.core.errors import RecipeError, UserError
from ssmlab.core.files import read_json, write_atomically
from ssmlab.core.progress import Progress
from ssmlab.experiments.folder import check_folder, claim, drop_replaced, make_folder
from ssmlab.experiments.options import SearchOptions
from ssmlab.experiments.published import fetch_published
from ssmlab.experiments.run import run_base
from ssmlab.experiments.sweep import Sweep, Trial, check_keys, parse_grid, run_trial
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.table import experiment_of, load_data

FILE = "search.jsonl"  # a line for every trial that is over
JOB = 1000  # between the steps of two models or seeds of a trial: each has fewer validations
FIRST = 4  # trials that are never ended early, and by chance
RANGE = ".."


class Pruned(Exception):
    """A trial that is not worth its end."""


class Watched(Progress):
    """Hands the validations of a trial to Optuna on their way to the display.

    Args:
        trial: of Optuna. sign: 1 where more is better.
    """

    def __init__(self, shown: Progress, trial: Any, sign: int):
        self.shown, self.trial, self.sign = shown, trial, sign
        self.curve: dict[int, float] = {}
        self.job = -1
        for name in ("say", "update", "note", "stop"):
            setattr(self, name, getattr(shown, name))

    def start(self, title: str, total: int, done: int = 0, unit: str = "images", per_step: int = 1) -> None:
        self.shown.start(title, total, done, unit, per_step)

    def training(self) -> None:
        """Another model or seed of the trial begins."""
        self.job += 1
        self.count = 0

    def evaluated(self, value: float) -> None:
        """A validation; raises Pruned where the median of the other trials was better by then."""
        step = JOB * self.job + self.count
        self.count += 1
        self.curve[step] = self.sign * value
        self.trial.report(self.sign * value, step)
        if self.trial.should_prune():
            raise Pruned


def parse_space(arguments: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """As `parse_grid`, where a value may also be a range, "low..high"."""
    ranges, rest = {}, []
    for argument in arguments:
        key, _, text = argument.partition("=")
        low, dots, high = text.partition(RANGE)
        if not dots:
            rest.append(argument)
            continue
        try:
            first, last = float(low), float(high)
        except ValueError:
            raise RecipeError(f"{argument!r}: a range is low..high, such as 1e-5..1e-2") from None
        if not first < last:
            raise RecipeError(f"{argument!r}: the range must grow, from low to high")
        ranges[key.strip()] = [low.strip(), high.strip()]
    try:
        choices, overrides = parse_grid(rest)
    except RecipeError:
        if not ranges or any("," in argument.partition("=")[2] for argument in rest):
            raise
        choices, overrides = {}, rest
    space = {key: [RANGE.join(ends)] for key, ends in ranges.items()} | choices
    return space, overrides


def run_search(
    source: str,
    arguments: list[str],
    options: SearchOptions | None = None,
    *,
    progress: Progress | None = None,
    accept_licence: bool = False,
    **given: Any,
) -> Sweep:
    """Train proposals of Optuna (TPE) until the budget is spent, compared on the validation part.

    Args:
        source, arguments: as of `run_sweep`; "key=low..high" is a range, on a logarithmic scale where it spans a factor
            of ten or more.
        options: also budget, the number of trials, and minutes, after which no further one begins.
    Returns:
        the trials that were trained to their end; `output/<name>-sweep/` holds search.jsonl, sweep.jsonl and best.toml.
    Raises:
        UserError: Optuna is not installed, or the folder holds another search.
    """
    options = SearchOptions.of(options, given, "run_search")
    try:
        import optuna
    except ImportError:
        raise UserError("--budget needs Optuna, which is not installed: pip install 'ssmlab[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    progress = progress or Progress()
    space, overrides = parse_space([*arguments, *options.changes()])
    base = load_recipe(source, overrides, smoke=options.smoke)
    check_keys(base, space)
    named = base.model_copy(update={"name": f"{base.name}-sweep"})
    output, begin = Path(options.output), time.monotonic()
    with claim(output / named.name, progress, overwrite=options.overwrite) as folder:
        check_folder(named, output, resume=options.resume, overwrite=options.overwrite)
        fetch_published(base, accept_licence)
        data = load_data(base, progress)
        make_folder(named, folder, overwrite=options.overwrite)
        if not (folder / "grid.json").is_file():
            write_atomically(folder / "grid.json", json.dumps(space, indent=2) + "\n")
        elif read_json(folder / "grid.json") != space:
            raise UserError(f"{folder} was started with another space ({folder / 'grid.json'}); repeat that one")
        start = run_base(base, output, progress, options.overwrite) if base.base.recipe or base.base.weights else None
        experiment, _ = experiment_of(base, data)
        sign = 1 if experiment.higher_is_better else -1
        over = _rows(folder)
        while len(over) < options.budget and (
            not options.minutes or not over or time.monotonic() - begin < 60 * options.minutes
        ):
            over.append(_one(optuna, space, over, sign, folder, source, overrides, options, data, start, progress))
            write_atomically(folder / FILE, "".join(json.dumps(row) + "\n" for row in over))
            drop_replaced(folder)
        trials = [
            Trial(row["point"], _recipe(source, overrides, row["point"], options, start), row["found"],
                  experiment.primary_metric(data), experiment.higher_is_better)
            for row in over if "found" in row
        ]  # fmt: skip
        sweep = Sweep(folder, trials, grid=False)
        write_atomically(folder / "best.toml", sweep.recipe.to_toml())
        progress.say(f"{len(over)} trials, {len(over) - len(trials)} of them ended early")
        return sweep


def _recipe(source: str, overrides: list[str], point: dict, options: SearchOptions, start: Path | None) -> Any:
    recipe = load_recipe(source, [*overrides, *(f"{k}={v}" for k, v in point.items())], smoke=options.smoke)
    if start is not None:
        recipe.base.weights = str(start)
        run_base(recipe, Path(options.output), Progress())
    return recipe


def _one(optuna, space, over, sign, folder, source, overrides, options, data, start, progress) -> dict:
    """Propose a trial and train it; the row that says what became of it."""
    number = len(over)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=number, n_startup_trials=FIRST),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST, n_warmup_steps=1),
    )
    distributions = {key: _distribution(optuna, values) for key, values in space.items()}
    states = optuna.trial.TrialState
    for known in over:
        study.add_trial(
            optuna.trial.create_trial(
                params=known["params"],
                distributions=distributions,
                state=states.COMPLETE if "found" in known else states.PRUNED,
                value=known["value"],
                intermediate_values={int(step): value for step, value in known["curve"].items()},
            )
        )
    trial = study.ask(distributions)
    point = {key: _text(value) for key, value in trial.params.items()}
    recipe = _recipe(source, overrides, point, options, start)
    watched = Watched(progress, trial, sign)
    row: dict[str, Any] = {"number": number, "point": point, "params": trial.params}
    try:
        found = run_trial(folder, number, options.budget, point, recipe, data, watched)
    except Pruned:
        shutil.rmtree(folder / "trials" / str(number), ignore_errors=True)
        progress.stop()
        progress.say(f"trial {number + 1}: ended early, the median of the others was better by then")
        return row | {"curve": watched.curve, "value": list(watched.curve.values())[-1]}
    return row | {"curve": watched.curve, "value": sign * found.score, "found": found.accuracies}


def _distribution(optuna: Any, values: Iterable[str]) -> Any:
    first, *rest = values
    low, dots, high = first.partition(RANGE)
    if rest or not dots:
        return optuna.distributions.CategoricalDistribution([first, *rest])
    whole = low.lstrip("-").isdigit() and high.lstrip("-").isdigit()
    wide = float(low) > 0 and float(high) >= 10 * float(low)
    if whole:
        return optuna.distributions.IntDistribution(int(low), int(high), log=wide)
    return optuna.distributions.FloatDistribution(float(low), float(high), log=wide)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rows(folder: Path) -> list[dict]:
    file = folder / FILE
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
