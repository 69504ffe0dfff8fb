"""Sequences with labels: reviews in class folders, genes in FASTA files, spoken words. numpy only."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssmlab.data.fasta import read_fasta
from ssmlab.data.splits import TEST_FRACTION, held_out
from ssmlab.data.synthetic import RATE, generated_bases, generated_reviews, generated_sounds
from ssmlab.data.text import PART_NAMES, find_files, read_texts
from ssmlab.data.wav import mu_law, read_wavs
from ssmlab.errors import DataError

GENERATED = "generated"
FEWEST = 3  # a class of fewer sequences cannot have all three parts
_SPOKEN = re.compile(r"(?P<label>[^_/]+)_(?P<speaker>[^/]+)_(?P<index>\d+)\.wav$")
SPOKEN_TEST = 5  # recordings below this number are the test part of the spoken digits, as their authors have it


class Labelled(NamedTuple):
    """A sequence with its class: a text or tokens (l,). `part` is None where its publisher does not say."""

    id: str
    label: str
    part: str | None
    content: str | np.ndarray


def read_labelled(path: str, kind: str) -> tuple[list[Labelled], list[str], int]:
    """Labelled sequences, what the user should know about them, and samples per second of sounds (else 0).

    text: <part>/<class>/*.txt or <class>/*.txt. dna: a FASTA file is a class, its records are the sequences. audio:
    <class>_<speaker>_<number>.wav, as the spoken digits are, or <class>/*.wav.

    Args:
        path: or "generated".
        kind: "text", "dna" or "audio".
    Raises:
        DataError: with everything that cannot be read or has no class.
    """
    if path == GENERATED:
        return _generated(kind), ["the sequences are generated"], RATE if kind == "audio" else 0
    read = {"text": _texts, "dna": _genes, "audio": _sounds}[kind]
    found, notes, rate = read(path)
    counts = Counter(item.label for item in found)
    rare = sorted(label for label, n in counts.items() if n < FEWEST)
    if rare:
        notes.append(f"classes of fewer than {FEWEST} sequences are left out: {', '.join(rare)}")
        found = [item for item in found if item.label not in rare]
    if len(counts) - len(rare) < 2:
        raise DataError(f"{path}: fewer than two classes of {FEWEST} sequences and more; nothing to tell apart")
    return found, notes, rate


def _texts(path):
    found = []
    for id, text in read_texts(path, files=find_files(path, (".txt",), "a .txt file or a folder of them")):
        *above, label = Path(id).parts[:-1] or (None,)
        if label is None:
            raise DataError(f"{path}: {id} is in no class folder; expected <class>/*.txt or <part>/<class>/*.txt")
        part = PART_NAMES.get(above[-1].lower()) if above else None
        found.append(Labelled(id, label, part, text))
    return found, [], 0


def _genes(path):
    found = []
    for document in read_fasta(path):
        name = document.id.split(":")[0]
        found.append(Labelled(document.id, Path(name).name.split(".")[0], None, document.tokens))
    return found, ["a file is a class, its records are the sequences"], 0


def _sounds(path):
    documents, rate, told = read_wavs(path)
    found, notes = [], [f"{rate:,} samples per second, 8 bits by mu-law", *told]
    for document in documents:
        spoken, above = _SPOKEN.search(document.id), Path(document.id).parts[:-1]
        if spoken:
            part = "test" if int(spoken["index"]) < SPOKEN_TEST else None
            found.append(Labelled(document.id, spoken["label"], part, document.tokens))
        elif above:
            found.append(Labelled(document.id, above[-1], None, document.tokens))
        else:
            raise DataError(
                f"{path}: {document.id} has no class; expected <class>_<speaker>_<number>.wav or <class>/*.wav"
            )
    if any(item.part for item in found) and not all(_SPOKEN.search(item.id) for item in found):
        raise DataError(f"{path}: some names are <class>_<speaker>_<number>.wav, some are not; keep one of the forms")
    return found, notes, rate


def _generated(kind) -> list[Labelled]:
    made: list = {
        "text": lambda: generated_reviews(240),
        "dna": lambda: [(label, document.tokens) for label, document in generated_bases(240, 160)],
        "audio": lambda: [(label, mu_law(samples)) for label, samples in generated_sounds(240, 240)],
    }[kind]()
    return [Labelled(f"generated/{i:04d}", label, None, content) for i, (label, content) in enumerate(made)]


def assign_parts(items: list[Labelled], *, val_fraction: float, seed: int) -> dict[str, list[int]]:
    """Positions by part: the published ones, else a fifth of every class for the test; val is taken from train.

    Raises:
        DataError: a part would be empty.
    """
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    free = [i for i, item in enumerate(items) if item.part is None]
    published = {item.part for item in items}
    test = set() if "test" in published else _held(items, free, TEST_FRACTION, seed, "test")
    train = [i for i, item in enumerate(items) if item.part in (None, "train") and i not in test]
    val = set() if "val" in published else _held(items, train, val_fraction, seed, "val")
    for i, item in enumerate(items):
        part = "test" if i in test else "val" if i in val else item.part or "train"
        parts[part].append(i)
    empty = [name for name, held in parts.items() if not held]
    if empty:
        raise DataError(f"the parts {', '.join(empty)} would be empty; give more sequences")
    return parts


def _held(items, positions, fraction, seed, part):
    ids, labels = [items[i].id for i in positions], [items[i].label for i in positions]
    return {positions[i] for i in held_out(ids, labels, fraction=fraction, seed=seed, part=part)}
