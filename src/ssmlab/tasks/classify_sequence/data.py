"""Sequences with labels of a run in memory: read and checked with numpy alone, before torch is imported."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssmlab.core.errors import DataError, RecipeError
from ssmlab.core.progress import Progress
from ssmlab.data.folds import described_groups
from ssmlab.data.sequences.check import content_id
from ssmlab.data.sequences.fasta import BASES
from ssmlab.data.sequences.reader import Labelled, open_labelled
from ssmlab.data.sequences.wav import LEVELS
from ssmlab.data.splits import split_hash
from ssmlab.tasks.classify.data import spread_over_classes
from ssmlab.tasks.language.texts import PARTS, encoded, tokenizer_of
from ssmlab.tasks.shared.recipe import AnyRecipe


@dataclass(frozen=True)
class SequencePart:
    """Tokens of every sequence, labels (n,), stable ids, and groups where a column says them."""

    tokens: list[np.ndarray]
    labels: np.ndarray
    ids: list[str]
    groups: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """All parts of a run's data.

    Args:
        classes: in the order of the label numbers.
        vocab_size: numbers of tokens are below it.
        tokenizer: the file that it came from, "bytes", or "" where tokens are no text.
        rate: samples per second of sounds, else 0.
        describe: what run.json says about the data.
    """

    train: SequencePart
    val: SequencePart
    test: SequencePart
    classes: tuple[str, ...]
    vocab_size: int
    tokenizer: str
    rate: int
    describe: dict


def load_labelled(recipe: AnyRecipe, progress: Progress | None = None) -> Sequences:
    """Read every sequence of a recipe.

    Raises:
        DataError: with all problems by file name.
        RecipeError: the recipe names a class that the data do not have.
    """
    config, progress = recipe.data, progress or Progress()
    progress.say(f"reading {config.path}")
    data = open_labelled(
        config.path,
        config.kind,
        val_fraction=config.val_fraction,
        seed=config.split_seed,
        encoding=config.encoding,
        labels=config.labels,
        group=config.group,
    )
    for warning in data.warnings:
        progress.say(f"warning: {warning}")
    items, held, classes, notes = data.items, data.held, data.classes, [*data.notes, *data.warnings]
    positive = recipe.evaluation.positive
    if positive and positive not in classes:
        raise RecipeError(f"evaluation.positive={positive!r} is no class of the data: {', '.join(classes)}")
    tokens, size, tokenizer = _tokens(recipe, items)
    empty = [item.id for item, found in zip(items, tokens, strict=True) if not len(found)]
    if empty:
        raise DataError(f"{config.path}: {len(empty)} sequences are empty", [f"{id}: remove it" for id in empty[:20]])
    numbers = np.array([classes.index(item.label) for item in items])
    parts = {}
    for name in PARTS:
        chosen = np.array(held[name])
        if config.limit and config.limit < len(chosen):
            chosen = chosen[spread_over_classes(numbers[chosen], config.limit, config.split_seed)]
        groups = [items[i].group or "" for i in chosen] if config.group else None
        parts[name] = SequencePart([tokens[i] for i in chosen], numbers[chosen], [items[i].id for i in chosen], groups)
    lengths = np.array([len(found) for found in tokens])
    cut = int((lengths > config.length).sum())
    if cut:
        notes.append(f"{cut:,} of {len(lengths):,} sequences are longer than {config.length:,} tokens and are cut")
    if config.limit:
        notes.append(f"at most {config.limit:,} sequences of each part are used, of the test part too")
    describe = {
        "format": config.kind,
        "path": config.path,
        "items": "sequences",
        "counts": {name: len(part.labels) for name, part in parts.items()},
        "classes": list(classes),
        "vocabulary": size,
        "tokenizer": tokenizer,
        "row": f"at most {config.length:,} tokens; sequences have {lengths.min():,} to {lengths.max():,}",
        "split_hash": split_hash({name: [content_id(items[i].id, tokens[i]) for i in held[name]] for name in PARTS}),
        "notes": notes,
        **described_groups(config.group, parts),
        "copies": data.copies,
    }
    return Sequences(classes=classes, vocab_size=size, tokenizer=tokenizer, rate=data.rate, describe=describe, **parts)


def _tokens(recipe: AnyRecipe, items: list[Labelled]) -> tuple[list[np.ndarray], int, str]:
    """The tokens of every sequence, how many there are, and the tokenizer's name."""
    if recipe.data.kind == "dna":
        return [np.asarray(item.content) for item in items], len(BASES), ""
    if recipe.data.kind == "audio":
        return [np.asarray(item.content) for item in items], LEVELS, ""
    tokenizer, name = tokenizer_of(recipe)
    return [encoded(str(item.content), tokenizer, name) for item in items], tokenizer.size, str(Path(name))
