"""What `language/length_scaling` measures: no data, only lengths."""

from dataclasses import dataclass

from ssmlab.core.progress import Progress
from ssmlab.tasks.shared.recipe import AnyRecipe


@dataclass(frozen=True)
class Lengths:
    """Describes the measurement for run.json."""

    describe: dict


def load_lengths(recipe: AnyRecipe, progress: Progress | None = None) -> Lengths:
    """Nothing is read: tokens are random, and their number is what is varied."""
    config = recipe.data
    names = {"prefill": config.prefill, "training step": config.training, "decoding": config.decoding}
    described = [
        f"{name} {', '.join(f'{length:,}' for length in lengths)}" for name, lengths in names.items() if lengths
    ]
    return Lengths(
        {
            "format": "random tokens",
            "path": config.path,
            "items": "lengths",
            "split_hash": "none",
            "vocabulary": config.vocab,
            "notes": [f"lengths in tokens: {'; '.join(described)}", "one sequence at a time"],
        }
    )
