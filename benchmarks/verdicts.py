"""How often the rule of verdicts names a winner that is none, and how often it finds a true one, by simulation.

    python benchmarks/verdicts.py                    every cell, 2,000 comparisons each; about half an hour of one core
    python benchmarks/verdicts.py --kind dice --runs 500
    python benchmarks/verdicts.py --kind two_seeds    what two seeds can say at all; seconds

Two models (or three) answer n cases, each trained with some seeds. Every number has four sources: how hard the case is
(shared by the models), how good the model is with this seed, the model's own luck with the case, and what is left of a
seed and a case. Under no difference all models have the same quality; with one seed that is the quality of the trained
models, since nothing can be known of other seeds, so that its spread is 0 there.

kinds: accuracy (right or wrong), dice (0 to 1, skewed), groups (five images of every patient: n counts patients).
"""

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from ssmlab.core.statistics import differences, statistics_of

CASES = (6, 8, 12, 20, 50, 150, 500)
SEEDS = (1, 2, 3, 5)
OF_GROUP = 5


@dataclass(frozen=True)
class Setting:
    """One cell: the kind of numbers, n, seeds, their spread in standard deviations of a case's difference, models."""

    kind: str
    cases: int
    seeds: int
    spread: float = 0.0
    models: int = 2
    effect: float = 0.0


def answers(setting: Setting, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Statistics of every model, and the groups.

    The difference of two models on a case has the standard deviation 1 before it is turned into Dice or an answer; the
    effect is added to the first model in that unit.
    """
    groups = np.repeat(np.arange(setting.cases), OF_GROUP) if setting.kind == "groups" else None
    count = setting.cases if groups is None else len(groups)
    hard = rng.standard_normal(setting.cases)
    hard = hard if groups is None else hard[groups]
    found = {}
    for model in range(setting.models):
        own = rng.standard_normal(setting.cases)
        own = own if groups is None else own[groups]
        left = rng.standard_normal((setting.seeds, count))
        luck = 0.5 * own + 0.5 * left  # two models of one seed each: variance 2 (0.25 + 0.25) = 1
        quality = setting.effect * (model == 0) + setting.spread * rng.standard_normal((setting.seeds, 1))
        value = hard + luck + quality
        if setting.kind == "accuracy":
            value = (value > -1.0).astype(float)  # about four in five are right
        elif setting.kind == "dice":
            value = 1 / (1 + np.exp(-1.7 - 0.7 * value))
        found[f"model {model}"] = statistics_of(value)
    return found, groups


def winner_named(setting: Setting, rng: np.random.Generator, resamples: int = 500, trials: int = 499) -> bool | None:
    """Whether the best model is called better than the next best; of a true effect None where another one is."""
    models, groups = answers(setting, rng)
    order = sorted(models, key=lambda name: -models[name][..., 0].mean())
    chosen = {name: models[name] for name in reversed(order)}
    found = differences(
        chosen, groups=groups, seed=int(rng.integers(2**31)), resamples=resamples, trials=trials, bounds=(-1.0, 1.0)
    )
    named = found[order[0], order[1]].decided
    return None if named and setting.effect and order[0] != "model 0" else named


def rate(setting: Setting, runs: int, seed: int = 0) -> float:
    """The share of comparisons in which a winner is named (of a true effect: the right one)."""
    rng = np.random.default_rng([seed, setting.cases, setting.seeds, setting.models])
    return sum(winner_named(setting, rng) is True for _ in range(runs)) / runs


def false_winners(kind: str) -> list[Setting]:
    """The cells without a difference."""
    found = [Setting(kind, n, s, spread) for n in CASES for s in SEEDS for spread in ((0.0,) if s == 1 else (0.0, 0.3))]
    return found + [Setting(kind, n, s, models=3) for n in (8, 20, 150) for s in (1, 3)]


def true_effects() -> list[Setting]:
    """Cells with a difference of 0.6 standard deviations of a case's difference of two trained models."""
    pairs = [(s, spread) for s in SEEDS for spread in ((0.0,) if s == 1 else (0.0, 0.1))]
    return [Setting("plain", n, s, spread, effect=0.6) for n in (20, 50, 150) for s, spread in pairs]


def half_widths(rule: str, cases: float, seeds: np.ndarray, shared: float, freedom: int) -> np.ndarray:
    """Half the 95 % interval of a difference by several rules.

    Args:
        cases: variance over cases, taken as known; it holds `shared`, that of what is left of a seed and a case.
        seeds: estimated variances of the seeds' means, with `freedom` degrees, which hold `shared` too.
        rule: "sum", normal draws and Student's t added, as the package does; "squares", both reaches added in squares;
            "satterthwaite", Student's t of Satterthwaite's degrees, `shared` counted once; "linear", the same with
            degrees that fall with the seeds' share instead of its square.
    """
    alone, both = float(t.ppf(0.975, freedom)), cases + np.maximum(seeds - shared, 0)
    if rule == "squares":
        return np.sqrt(1.96**2 * cases + alone**2 * seeds)
    if rule == "sum":  # the quantile of the sum by the ratio of both, from draws
        ratios, rng = np.geomspace(0.01, 100, 60), np.random.default_rng(1)
        normal, student = rng.standard_normal(200_000), rng.standard_t(freedom, 200_000)
        table = [np.quantile(normal + ratio * student, 0.975) for ratio in ratios]
        return np.sqrt(cases) * np.interp(np.sqrt(seeds / cases), ratios, table)
    share = np.minimum(np.maximum(seeds, shared) / both, 1)
    degrees = freedom / share ** (2 if rule == "satterthwaite" else 1)
    return t.ppf(0.975, degrees) * np.sqrt(both)


def two_seeds(runs: int = 100_000, cases: int = 50, effect: float = 0.6) -> None:
    """False winners and power of the rules for two models with two seeds each, all numbers normal.

    The sources are those of `answers`: of a difference of n cases the variance over cases is 0.75 / n, of which
    0.25 / n is what is left of a seed and a case, and a spread s of the seeds adds s^2.
    """
    rng, spreads = np.random.default_rng(0), (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
    false = np.geomspace(0.01, 3, 25)  # spreads under no difference, of which the worst is shown
    print(f"\n{runs:,} comparisons a number, {cases} cases, two seeds\n")
    print("| rule | most false winners |" + "".join(f" found, spread {s:g} |" for s in spreads))
    print("| --- | ---: |" + " ---: |" * len(spreads))
    of_cases, shared = 0.75 / cases, 0.25 / cases

    def named(rule: str, spread: float, true: float) -> float:
        found = true + np.sqrt(of_cases + spread**2) * rng.standard_normal(runs)
        seeds = (spread**2 + shared) * rng.chisquare(2, runs) / 2
        return 100 * float(np.mean(np.abs(found) > half_widths(rule, of_cases, seeds, shared, 2)))

    for rule in ("sum", "squares", "linear", "satterthwaite"):
        worst, power = max(named(rule, s, 0.0) for s in false), [named(rule, s, effect) for s in spreads]
        print(f"| {rule} | {worst:.1f} | " + " | ".join(f"{each:.0f}" for each in power) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("accuracy", "dice", "groups", "effect", "two_seeds"), default=None)
    parser.add_argument("--runs", type=int, default=2000)
    options = parser.parse_args()
    if options.kind == "two_seeds":
        return two_seeds()
    for kind in [options.kind] if options.kind else ["accuracy", "dice", "groups", "effect"]:
        cells = true_effects() if kind == "effect" else false_winners(kind)
        print(f"\n{kind}, {options.runs:,} comparisons a cell\n")
        print("| cases | seeds | spread of seeds | models | winner named |\n| ---: | ---: | ---: | ---: | ---: |")
        for cell in cells:
            share = rate(cell, options.runs)
            print(f"| {cell.cases} | {cell.seeds} | {cell.spread:g} | {cell.models} | {share:.1%} |", flush=True)


if __name__ == "__main__":
    main()
