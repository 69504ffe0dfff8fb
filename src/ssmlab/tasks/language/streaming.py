"""Texts and tokens that are read while a model is trained: what is held out of them, and what is said about them."""

from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.core.progress import Progress
from ssmlab.data.contents import count
from ssmlab.data.files import FolderFiles
from ssmlab.data.images.medmnist import machine_memory
from ssmlab.data.parts import parts_of
from ssmlab.data.splits import split_hash
from ssmlab.data.stream.shuffle import Stream
from ssmlab.data.stream.texts import ARRAYS, TextRows, TokenRows, joined
from ssmlab.data.text.documents import find_files
from ssmlab.data.text.packing import Rows
from ssmlab.data.text.tokenizers import BYTES
from ssmlab.tasks.language.texts import PARTS, Texts, TokenStream, chance_of, encoded, separator_of, tokenizer_of
from ssmlab.tasks.shared.recipe import AnyRecipe

MOST_HELD = 2000  # rows of validation and of test, which are in memory; and of train, for what is known by chance
BYTES_OF_TOKEN = 9  # of a row: the token, its document, whether it is learned
HEAD = 1 << 16  # bytes of every file by which a changed one is noticed


def in_stream(recipe: AnyRecipe) -> bool:
    """Whether a recipe's texts are read while a model is trained: it says so, or they are too large for memory."""
    config = recipe.data
    if config.kind != "text" or config.stream is False:
        return False
    path = Path(config.path).expanduser()
    if config.stream is True or path.name.lower().endswith(ARRAYS):
        return True
    memory, fixed = machine_memory(), recipe.training.carry_state or not config.packing
    if memory is None or fixed or not path.exists():
        return False
    if path.is_dir():
        listed = FolderFiles(path)
        files = [path / real for real in listed.files.values()]
        if files and all(file.name.lower().endswith(ARRAYS) for file in files):
            return True
    else:
        files = [path]
    return sum(file.stat().st_size for file in files if file.is_file()) * BYTES_OF_TOKEN > memory // 2


def stream_texts(recipe: AnyRecipe, progress: Progress) -> Texts:
    """Open what a recipe of language models names, read what is held out of it, and leave the rest to training.

    Raises:
        DataError: there is nothing that can be read in pieces, or too little for three parts.
    """
    config = recipe.data
    tokenizer, name = tokenizer_of(recipe)
    separator_id = separator_of(tokenizer)
    files = _files(config.path)
    arrays = files[0][1].name.lower().endswith(ARRAYS)
    source: Any
    if arrays:
        source = TokenRows(files, max(tokenizer.size, separator_id + 1), config.length, separator_id)
    else:
        encode = partial(encoded, tokenizer=tokenizer, name=name)
        source = TextRows(files, encode, config.length, separator_id, config.documents, config.encoding)
    shards, how = _parts(source, config)
    most = min(MOST_HELD, config.limit or MOST_HELD)
    rows, units = {}, {}
    items = 1
    for part in PARTS:
        before = getattr(source, "encoded_bytes", 0)
        found, read = _some(source, shards[part], most, part, config.path)
        rows[part] = found.few(most) if len(found) > most else found
        labels = rows[part].labels()
        if name == BYTES:
            units[part] = int(((labels != -100) & (labels != separator_id)).sum())
        elif arrays:
            units[part] = max(1, sum(len(tokenizer.decode(row[row >= 0].tolist()).encode()) for row in labels))
        else:
            units[part] = max(1, round((source.encoded_bytes - before) * len(rows[part]) / len(found)))
        if part == "train":
            items = max(1, round(len(shards[part]) * len(found) / read))
    items = min(items, config.limit or items)
    told = _told(config, source, items, sum(map(len, rows.values())))
    notes = [told, how, "copies across parts are not looked for in a stream"]
    counts = {part: int((found.labels() != -100).sum()) for part, found in rows.items()}
    describe = {
        "format": config.kind,
        "path": config.path,
        "items": "rows",
        "counts": {part: len(found) for part, found in rows.items()} | {"train": items},
        "tokens": counts,
        "vocabulary": max(tokenizer.size, separator_id + 1),
        "tokenizer": name,
        "row": f"{config.length:,} tokens",
        "split_hash": _split_hash(source, shards),
        "notes": notes,
        "copies": {},
        "chance": chance_of(rows, "bits_per_byte", units, counts),
    }
    stream = TokenStream(partial(Stream, source, shards=shards["train"], buffer=config.buffer), items)
    return Texts(
        rows=rows, vocab_size=describe["vocabulary"], separator_id=separator_id, unit="byte", units=units,
        tokenizer=name, describe=describe, train=stream,
    )  # fmt: skip


def _files(path: str) -> list[tuple[str, Path]]:
    """(name, path) of the arrays of tokens, or of the texts, that a path holds."""
    place = Path(path).expanduser()
    if place.is_file() and place.name.lower().endswith(ARRAYS):
        return [(place.name, place)]
    if place.is_dir():
        listed = FolderFiles(place)
        arrays = [(name, listed.at(name)) for name in listed.files if name.lower().endswith(ARRAYS)]
        if arrays and len(arrays) == len(listed.files):
            return arrays
    files = []
    for name, file in find_files(place, "text", "a file or folder of text, of JSON lines or of arrays of tokens"):
        if not isinstance(file, Path):
            raise DataError(f"{path}: files of an archive are not read in pieces; unpack it, or data.stream=false")
        files.append((name, file))
    return files


def _parts(source: TextRows | TokenRows, config: Any) -> tuple[dict[str, np.ndarray], str]:
    """The pieces of every part, in a random order, and how that was decided, in words."""
    named = parts_of(name for name, _ in source.files)
    if not ("train" in named and {"val", "test"} & set(named)):
        named = ["train"] * len(named)
    of = np.array([named[piece.file] or "train" for piece in source.pieces])
    random = np.random.default_rng(config.split_seed)
    shards = {part: random.permutation(np.flatnonzero(of == part)) for part in PARTS}
    missing = [part for part in ("test", "val") if not len(shards[part])]
    share = {"test": config.test_fraction, "val": config.val_fraction}
    for part in missing:
        held = max(1, round(share[part] * len(shards["train"])))
        shards[part], shards["train"] = shards["train"][:held], shards["train"][held:]
    if not len(shards["train"]):
        raise DataError(f"{config.path}: too little for three parts in pieces; give more text, or data.stream=false")
    if not missing:
        return shards, "the parts are those that files are named after"
    # what would be held out but is not measured is trained on
    most = -(-MOST_HELD * config.length * 8 // max(1, sum(source.sizes) // len(source)))
    for part in missing:
        shards["train"] = np.append(shards["train"], shards[part][most:])
        shards[part] = shards[part][:most]
    return shards, f"{' and '.join(missing)} are pieces from all over train, by split_seed"


def _some(source: Any, shards: np.ndarray, most: int, part: str, path: str) -> tuple[Rows, int]:
    """Rows of the first pieces, `most` or a few more, and how many pieces they are of."""
    found: list[Rows] = []
    read = 0
    while read < len(shards) and sum(map(len, found)) < most:
        rows = source.rows(int(shards[read]))
        found += [] if rows is None else [rows]
        read += 1
    if not found or not any((rows.labels() != -100).any() for rows in found):
        raise DataError(f"{path}: nothing to predict in {part}; give more data or a smaller length")
    return joined(found), read


def _told(config: Any, source: TextRows | TokenRows, items: int, held: int) -> str:
    memory = (min(config.buffer, items) + held) * (config.length + 1) * BYTES_OF_TOKEN / 2**20
    noun = "bytes" if isinstance(source, TextRows) else "rows"
    size = sum(piece.end - piece.begin for piece in source.pieces)
    return (
        f"read in a stream: {size:,} {noun} of {count(len(source.files), 'file')} in {len(source):,} pieces, "
        f"about {items:,} rows an epoch; {config.buffer:,} are shuffled in memory, {held:,} kept: {memory:,.0f} MiB"
    )


def _split_hash(source: TextRows | TokenRows, shards: dict[str, np.ndarray]) -> str:
    """Of the pieces of every part, with the size and the beginning of their files."""
    heads = []
    for (name, path), size in zip(source.files, source.sizes, strict=True):
        with open(path, "rb") as file:
            heads.append(f"{name} {size} {sha256(file.read(HEAD)).hexdigest()}")
    pieces = source.pieces
    ids: dict[str, Sequence[str]] = {
        part: [f"{heads[pieces[n].file]} {pieces[n].begin}" for n in numbers] for part, numbers in shards.items()
    }
    return split_hash(ids)
