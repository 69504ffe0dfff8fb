"""How translations change when the source is typed carelessly: typos, casing, no full stop, spaces at the end."""

import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from ssmlab.core.record import Record
from ssmlab.core.statistics import score_interval
from ssmlab.tasks.translate.scores import EvaluationSet, Scores, bleu_of, score_lines

SHARES = (0.05, 0.1, 0.2)  # of words that get a typo
KINDS = ("swap", "delete", "double")


def with_typos(line: str, share: float, seed: int, number: int) -> str:
    """Each word with two neighbouring letters gets a typo with the probability `share`.

    A typo swaps two letters, leaves one out, or types one twice; spaces and punctuation stay. What a word gets depends
    on the seed, on the line's number and on the word's place alone: words with a typo at 5 % have the same at 20 %.

    Args:
        number: of the line in its file.
    """
    pieces = re.split(r"(\s+)", line)
    for i in range(0, len(pieces), 2):
        word = pieces[i]
        places = [k for k in range(len(word) - 1) if word[k].isalpha() and word[k + 1].isalpha()]
        rng = np.random.default_rng((seed, number, i))
        if places and rng.random() < share:
            k, kind = places[rng.integers(len(places))], KINDS[rng.integers(len(KINDS))]
            one, two = word[k], word[k + 1]
            if kind == "swap" and one == two:
                kind = "double"  # a swap of equal letters would be no typo
            typed = {"swap": two + one, "delete": two, "double": one + one + two}[kind]
            pieces[i] = word[:k] + typed + word[k + 2 :]
    return "".join(pieces)


def without_final_punctuation(line: str) -> str:
    """The line without the punctuation at its end, whatever the script; a line of punctuation alone as it is."""
    end = len(line.rstrip())
    while end and unicodedata.category(line[end - 1]).startswith("P"):
        end -= 1
    return line[:end].rstrip() or line


CHANGES: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "upper case": str.upper,
    "no final punctuation": without_final_punctuation,
    "spaces at the end": lambda line: line + "   ",
}


def changed_sources(sources: Sequence[str], seed: int = 0) -> dict[str, list[str]]:
    """Every change of the sources by its name, "typos in 5 % of words" and those of CHANGES."""
    found = {
        f"typos in {100 * share:.0f} % of words": [with_typos(s, share, seed, i) for i, s in enumerate(sources)]
        for share in SHARES
    }
    return found | {name: [change(source) for source in sources] for name, change in CHANGES.items()}


def robustness_records(
    translate: Callable[[list[str]], list[str]],
    data: EvaluationSet,
    scores: Scores,
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> list[Record]:
    """BLEU of translations of changed sources, and how much less it is than that of the sources as they are.

    Records `bleu_changed` and `bleu_lost` with the change as their class; the second has the 95 % interval over
    sentences, drawn for both alike.

    Args:
        translate: sources to translations, one each.
        scores: of the unchanged sources.
    """
    records = []
    for name, sources in changed_sources(data.sources, seed).items():
        found = score_lines(data, translate(sources))
        n, unit = len(sources), found.signatures["bleu"]
        lost = score_interval(scores.bleu[None], bleu_of, found.bleu[None], resamples=resamples)
        records += [
            Record(metric="bleu_changed", value=found.values["bleu"], unit=unit, n=n, class_=name),
            Record(metric="bleu_lost", value=lost.value, unit="points", n=n, spread=lost[1:], class_=name),
        ]
    return records
