"""The sequences of a synthetic task, made when they are needed: every epoch has new ones."""

import hashlib
from dataclasses import dataclass

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.core.progress import Progress
from ssmlab.data.contents import did_you_mean
from ssmlab.data.synthetic.recall import induction_heads, selective_copying
from ssmlab.data.synthetic.state_tracking import modular_arithmetic, modular_sum, parity
from ssmlab.tasks.shared.recipe import AnyRecipe
from ssmlab.tasks.synthetic.recipe import SyntheticData

NAMES = ("selective_copying", "induction_heads", "parity", "modular_sum", "modular_arithmetic")
VAL, TEST = 1, 2  # numbers in the seeds of the parts; an epoch's is EPOCHS and more
EPOCHS = 1000
PLACES = 4  # for each data token, while selective copying grows


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A synthetic task.

    Args:
        config: its sizes.
        epochs, curriculum: of the training.
        val, test: tokens (n, l) uint8 and labels (n, l); `further` the same for other lengths.
        describe: what run.json says about the data.
    """

    config: SyntheticData
    epochs: int
    curriculum: str = "memory_first"
    val: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    further: dict[int, tuple[np.ndarray, np.ndarray]]
    describe: dict

    def epoch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The training sequences of an epoch; those of the same number are the same."""
        config = self.config
        grows = config.grow and self.curriculum != "none"
        size = _growing(config, number / (config.grow * self.epochs), self.curriculum) if grows else {}
        return make(config.model_copy(update=size), config.examples, [config.split_seed, EPOCHS + number], every=True)


def _growing(config: SyntheticData, part: float, curriculum: str) -> dict[str, int]:
    """The sizes of an epoch, where `part` of the growth is over, 1 and more: all of it.

    Sequences of an eighth of the length grow steadily. In selective copying the data tokens do so too ("together"),
    from 2; or what is to be remembered comes first ("memory_first"), since a short sequence costs little: in the first
    third the data tokens grow from 2, at `PLACES` places each; in the second nothing grows; in the last one the noise
    does, each epoch by the same factor.
    """
    if part >= 1:
        return {}
    if config.path != "selective_copying":
        return {"length": max(8, round((1 / 8 + 7 / 8 * part) * config.length))}
    if curriculum == "together":
        tokens = min(config.data_tokens, round(2 + (config.data_tokens - 2) * part))
        return {"data_tokens": tokens, "length": max(8, tokens, round((1 / 8 + 7 / 8 * part) * config.length))}
    tokens = min(config.data_tokens, round(2 + (config.data_tokens - 2) * min(1, 3 * part)))
    dense = min(config.length, PLACES * tokens)
    return {"data_tokens": tokens, "length": round(dense * (config.length / dense) ** max(0, 3 * part - 2))}


COMMONEST = "the most frequent answer alone"


def make(
    config: SyntheticData, count: int, seed, length: int = 0, every: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of the recipe's task, of its length or another one; `every`: a state is predicted at every token."""
    length = length or config.length
    if config.path == "parity":
        return parity(count, length, seed, every=every)
    if config.path == "modular_sum":
        return modular_sum(count, length, config.vocab - 1, seed, every=every)
    if config.path == "modular_arithmetic":
        return modular_arithmetic(count, length, config.vocab - 3, seed, every=every)
    if config.path == "selective_copying":
        return selective_copying(count, length, config.data_tokens, config.vocab, seed)
    return induction_heads(count, length, config.vocab, seed)


def load_problem(recipe: AnyRecipe, progress: Progress | None = None) -> Problem:
    """Make the parts that stay the same.

    Raises:
        DataError: there is no such task, or its sizes are none.
    """
    config = recipe.data
    if config.path not in NAMES:
        raise DataError(
            f"data.path={config.path!r} is no synthetic task{did_you_mean(config.path, NAMES)}; there are "
            f"{', '.join(NAMES)}"
        )
    short = min(config.length, *config.test_lengths) if config.test_lengths else config.length
    if config.path == "selective_copying" and config.data_tokens > short:
        raise DataError(f"data.data_tokens={config.data_tokens} do not fit into a length of {short}")
    val = make(config, config.val_examples or config.test_examples, [config.split_seed, VAL])
    test = make(config, config.test_examples, [config.split_seed, TEST])
    further = {}
    for length in config.test_lengths:
        # so many that an evaluation costs what the test part costs, and at least a few dozen
        count = max(64, min(config.test_examples, config.test_examples * config.length // length))
        further[length] = make(config, count, [config.split_seed, TEST, length], length)
    answers = test[1][test[1] >= 0]
    counts = {"train": config.examples, "val": len(val[0]), "test": len(test[0])}
    describe = {
        "format": config.path,
        "path": config.path,
        "items": "sequences",
        "counts": counts,
        "vocabulary": config.vocab,
        "row": f"{val[0].shape[1]:,} tokens",
        "length": config.length,
        "chance": {"metric": "accuracy", "value": np.bincount(answers).max().item() / answers.size, "of": COMMONEST},
        "split_hash": hashlib.sha256(val[0].tobytes() + test[0].tobytes()).hexdigest(),
        "notes": [
            f"generated; every epoch has {config.examples:,} new sequences for training",
            *(
                [f"in the first {config.grow:.0%} of the epochs training sequences grow, if so trained"]
                * (config.grow > 0)
            ),
        ],
    }
    return Problem(config=config, epochs=recipe.training.epochs, val=val, test=test, further=further, describe=describe)
