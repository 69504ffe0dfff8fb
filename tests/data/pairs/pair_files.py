"""Sentence pairs for tests: any number of different ones, in English and French."""

import random
from pathlib import Path

from ssmlab.data.pairs.config import PairConfig
from ssmlab.data.pairs.reader import PairData, read_pairs

NOUNS = {
    "dog": "chien", "cat": "chat", "bird": "oiseau", "horse": "cheval", "boy": "garçon", "man": "homme",
    "teacher": "professeur", "doctor": "médecin", "driver": "conducteur", "singer": "chanteur",
}  # fmt: skip
VERBS = {"sees": "voit", "hears": "entend", "follows": "suit", "finds": "trouve", "knows": "connaît"}
PLACES = {
    "in the garden": "dans le jardin", "on the street": "dans la rue", "at the station": "à la gare",
    "in the kitchen": "dans la cuisine", "with a friend": "avec un ami", "and it is late": "et il est tard",
    "for a long time": "pendant longtemps", "in the city": "dans la ville",
}  # fmt: skip


def pairs(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """n different sentences and their translations."""
    drawn = random.Random(seed)
    every = [(a, v, b, p) for a in NOUNS for v in VERBS for b in NOUNS for p in PLACES]
    chosen = drawn.sample(every, n)
    return (
        [f"The {a} {v} the {b} {p}." for a, v, b, p in chosen],
        [f"Le {NOUNS[a]} {VERBS[v]} le {NOUNS[b]} {PLACES[p]}." for a, v, b, p in chosen],
    )


def write(path: Path, lines: list[str], end: str = "\n", encoding: str = "utf-8", last: bool = True) -> Path:
    """Lines as a file, with folders where they are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((end.join(lines) + end * last).encode(encoding, "surrogateescape"))
    return path


def folder(root: Path, sizes=(60, 10, 10), names=("train", "val", "test"), tags=("en", "fr"), **options) -> Path:
    """A folder of aligned files."""
    sources, targets = pairs(sum(sizes))
    begin = 0
    for name, size in zip(names, sizes, strict=True):
        for tag, lines in zip(tags, (sources, targets), strict=True):
            write(root / f"{name}.{tag}", lines[begin : begin + size], **options)
        begin += size
    return root


def read(path: Path, **keys) -> PairData:
    """`read_pairs` of a path."""
    return read_pairs(PairConfig(path=str(path), **keys))
