"""What language models read, in rows: text, bases, sound or chats, read and checked before torch is imported."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.data.fasta import BASES, read_fasta, reverse_complement
from ssmlab.data.jsonl import chat_tokens, read_chats
from ssmlab.data.kinds import KINDS
from ssmlab.data.packing import Rows, pack, pack_lanes, pack_whole
from ssmlab.data.splits import split_hash
from ssmlab.data.synthetic import generated_bases, generated_chats, generated_sounds
from ssmlab.data.text import Document, divide, left_out, read_texts
from ssmlab.data.tokenizers import BYTES, Tokenizer, find_tokenizer, load_tokenizer
from ssmlab.data.wav import LEVELS, mu_law, read_wavs
from ssmlab.errors import DataError, RecipeError
from ssmlab.training.growing import with_new_tokens
from ssmlab.training.progress import Progress
from ssmlab.training.schema import AnyRecipe

PARTS = ("train", "val", "test")
GENERATED = "generated"
UNITS = {"text": "byte", "chat": "byte", "dna": "base", "audio": "sample"}


@dataclass(frozen=True, kw_only=True)
class Texts:
    """All parts of a run's data.

    Args:
        rows: by part.
        vocab_size: numbers of tokens are below it, the mark between documents included.
        mark: that token.
        unit: what bits are counted by: "byte", "base" or "sample".
        units: by part, how many of them the rows ask for.
        tokenizer: the file or folder that it came from, "bytes", or "" where tokens are no text.
        describe: what run.json says about the data.
    """

    rows: dict[str, Rows]
    vocab_size: int
    mark: int
    unit: str
    units: dict[str, int]
    tokenizer: str
    describe: dict


@dataclass(frozen=True)
class _Source:
    """Documents by part with what their tokens are."""

    parts: dict[str, list[Document]]
    size: int
    mark: int
    tokenizer: str
    notes: list[str]
    units: dict[str, int] | None = None  # where a token is not a unit


def load_texts(recipe: AnyRecipe, progress: Progress | None = None) -> Texts:
    """Read everything that a recipe of language models names.

    Raises:
        DataError: with all problems by file name.
    """
    config, progress = recipe.data, progress or Progress()
    _check_models(recipe)
    progress.say(f"reading {config.path}")
    source = {"text": _text, "dna": _dna, "audio": _audio, "chat": _chat}[config.kind](recipe)
    rows, notes = {}, [*source.notes, *left_out(config.path, KINDS[config.kind].suffixes)]
    for name in PARTS:
        rows[name], cut = _rows(recipe, source.parts[name], source.mark)
        if cut:
            notes.append(f"{cut:,} chats of {name} are longer than a row and lost their end; raise data.length")
        if config.limit and config.limit < len(rows[name]):
            rows[name] = rows[name].few(config.limit)
    if config.limit:
        notes.append(f"at most {config.limit:,} rows of each part are used, from all over it")
    asked = {name: int((part.labels() != -100).sum()) for name, part in rows.items()}
    empty = [name for name, count in asked.items() if not count]
    if empty:
        raise DataError(f"{config.path}: nothing to predict in {', '.join(empty)}; give more data or a smaller length")
    ids = {name: [_id(document) for document in source.parts[name]] for name in PARTS}
    describe = {
        "format": config.kind,
        "path": config.path,
        "items": "rows",
        "counts": {name: len(part) for name, part in rows.items()},
        "tokens": asked,
        "documents": {name: len(source.parts[name]) for name in PARTS},
        "vocabulary": max(source.size, source.mark + 1),
        "tokenizer": source.tokenizer,
        "row": f"{config.length:,} tokens",
        "split_hash": split_hash(ids),
        "notes": notes,
    }
    return Texts(
        rows=rows,
        vocab_size=describe["vocabulary"],
        mark=source.mark,
        unit=UNITS[config.kind],
        units=_units(source, rows, asked),
        tokenizer=source.tokenizer,
        describe=describe,
    )


def _check_models(recipe: AnyRecipe) -> None:
    if recipe.model and not (Path(recipe.model) / "config.json").is_file():
        raise RecipeError(f"model={recipe.model}: no config.json there; give the folder of a language model")
    nameless = [model.label for model in recipe.models if not (model.name or model.weights or recipe.model)]
    if nameless:
        raise RecipeError(f"{', '.join(nameless)}: no model is named; give the folder of a language model as model=DIR")


def _rows(recipe: AnyRecipe, documents: list[Document], mark: int) -> tuple[Rows, int]:
    length = recipe.data.length
    if recipe.data.kind == "chat":
        return pack_whole(documents, length, mark)
    if recipe.training.carry_state:
        return pack_lanes(documents, length, mark, recipe.training.batch_size), 0
    return pack(documents, length, mark), 0


def _id(document: Document) -> str:
    """Name and content, so that a changed file is noticed when a run is resumed."""
    import hashlib

    return f"{document.id} {hashlib.sha256(np.ascontiguousarray(document.tokens).tobytes()).hexdigest()}"


def _units(source: _Source, rows: dict[str, Rows], asked: dict[str, int]) -> dict[str, int]:
    """Bytes, bases or samples that are asked for: marks are tokens, but none of these."""
    if source.units is not None:  # of the whole part, in proportion to the tokens that are left
        whole = {name: sum(len(document.tokens) + 1 for document in source.parts[name]) for name in PARTS}
        return {name: max(1, round(source.units[name] * asked[name] / whole[name])) for name in PARTS}
    return {name: int(((part.labels() != -100) & (part.labels() != source.mark)).sum()) for name, part in rows.items()}


def tokenizer_of(recipe: AnyRecipe) -> tuple[Tokenizer, str]:
    """The tokenizer that a recipe names, else that of the weights that it starts from, else bytes; and its source."""
    named = recipe.data.tokenizer
    folders = [f for f in (getattr(recipe, "model", ""), *(model.weights for model in recipe.models)) if f]
    if named or not folders:
        found = load_tokenizer(named or BYTES)
        return with_new_tokens(recipe, found, str(getattr(found, "path", BYTES)))
    config = json.loads((Path(folders[0]) / "config.json").read_text("utf-8"))
    size = (config.get("config") or config).get("vocab_size", 0)
    found = find_tokenizer(folders[0], size)
    return with_new_tokens(recipe, found, str(getattr(found, "path", BYTES)))


def mark_of(tokenizer: Tokenizer) -> int:
    """The token between documents: the tokenizer's own end, or one more than it has."""
    return tokenizer.size if tokenizer.eos is None else tokenizer.eos


def _text(recipe: AnyRecipe) -> _Source:
    config = recipe.data
    tokenizer, name = tokenizer_of(recipe)
    texts = read_texts(config.path, config.documents)
    documents = [Document(id, encoded(text, tokenizer, name)) for id, text in texts]
    parts, how = _divided(documents, config)
    units = None
    if name != BYTES:
        units = {
            part: sum(len(tokenizer.decode(d.tokens.tolist()).encode("utf-8")) for d in found)
            for part, found in parts.items()
        }
    return _Source(parts, tokenizer.size, mark_of(tokenizer), name, [how], units)


def encoded(text: str, tokenizer: Tokenizer, name: str) -> np.ndarray:
    """Tokens of a text; bytes without a detour over lists."""
    if name == BYTES:
        return np.frombuffer(text.encode("utf-8"), np.uint8)
    return np.array(tokenizer.encode(text), np.int32)


def _dna(recipe: AnyRecipe) -> _Source:
    config = recipe.data
    if config.path == GENERATED:
        documents = [document for _, document in generated_bases(40, 400)]
    else:
        documents = read_fasta(config.path)
    parts, how = _divided(documents, config)
    notes = [how, f"tokens are {', '.join(BASES)}"]
    if config.reverse_complement:
        other = [Document(f"{d.id} reverse", reverse_complement(d.tokens)) for d in parts["train"]]
        parts = parts | {"train": parts["train"] + other}
        notes.append("training reads both strands")
    return _Source(parts, len(BASES), len(BASES), "", notes)


def _audio(recipe: AnyRecipe) -> _Source:
    config = recipe.data
    if config.path == GENERATED:
        sounds = generated_sounds(40, 600)
        documents = [Document(f"generated/{i:04d}", mu_law(samples)) for i, (_, samples) in enumerate(sounds)]
        rate, notes = 8000, []
    else:
        documents, rate, notes = read_wavs(config.path)
    parts, how = _divided(documents, config)
    return _Source(parts, LEVELS, LEVELS, "", [how, f"{rate:,} samples per second, 8 bits by mu-law", *notes])


def _chat(recipe: AnyRecipe) -> _Source:
    config = recipe.data
    tokenizer, name = tokenizer_of(recipe)
    chats = generated_chats(240) if config.path == GENERATED else read_chats(config.path)
    template, mark = config.template.model_dump(), mark_of(tokenizer)

    def encode(text: str) -> list[int]:
        return encoded(text, tokenizer, name).tolist()

    documents = [chat_tokens(id, messages, template, encode, mark) for id, messages in chats]
    parts, how = _divided(documents, config)
    return _Source(parts, tokenizer.size, mark, name, [how, "only answers are learned and measured"])


def _divided(documents: list[Document], config: Any):
    return divide(
        documents, val_fraction=config.val_fraction, test_fraction=config.test_fraction, seed=config.split_seed
    )
