"""What language models read, in rows: text, bases, sound or chats, read and checked before torch is imported."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.core.errors import DataError, RecipeError
from ssmlab.core.progress import Progress
from ssmlab.core.text import did_you_mean
from ssmlab.data.leaks import Keys, base_keys, leaks, sound_keys, text_keys
from ssmlab.data.sequences.fasta import BASES, read_fasta, reverse_complement
from ssmlab.data.sequences.wav import LEVELS, mu_law, read_wavs
from ssmlab.data.splits import split_hash
from ssmlab.data.synthetic.recall import generated_bases, generated_chats, generated_sounds
from ssmlab.data.text.chat_template import ChatTemplate, chat_document, find_template
from ssmlab.data.text.documents import Document, divide, left_out, read_texts
from ssmlab.data.text.jsonl import chat_tokens, read_chats
from ssmlab.data.text.packing import Rows, pack, pack_alone, pack_streams, pack_whole
from ssmlab.data.text.tokenizers import BYTES, Tokenizer
from ssmlab.models.registry import kind_of
from ssmlab.tasks.language.streaming import in_stream, stream_texts
from ssmlab.tasks.language.texts import (
    PARTS,
    UNITS,
    Texts,
    chance_of,
    encoded,
    separator_of,
    start_folders,
    tokenizer_of,
)
from ssmlab.tasks.shared.recipe import AnyRecipe

GENERATED = "generated"
NOUNS = {"text": "texts", "chat": "chats", "dna": "sequences", "audio": "sounds"}
UNKNOWN = BASES.index("N")


@dataclass(frozen=True)
class _Source:
    """Documents by part with what their tokens are, and by the ids of documents what copies are found by."""

    parts: dict[str, list[Document]]
    size: int
    separator_id: int
    tokenizer: str
    notes: list[str]
    keys: dict[str, Keys] = field(default_factory=dict)
    units: dict[str, int] | None = None  # where a token is not a unit
    template: dict[str, str] | ChatTemplate | None = None
    rate: int = 0


def load_texts(recipe: AnyRecipe, progress: Progress | None = None) -> Texts:
    """Read everything that a recipe of language models names.

    Raises:
        DataError: with all problems by file name.
    """
    config, progress = recipe.data, progress or Progress()
    _check_models(recipe)
    if in_stream(recipe):
        return stream_texts(recipe, progress)
    progress.say(f"reading {config.path}")
    source = {"text": _text, "dna": _dna, "audio": _audio, "chat": _chat}[config.kind](recipe)
    rows, notes = {}, [*source.notes, *left_out(config.path, config.kind)]
    for name in PARTS:
        rows[name], cut = _rows(recipe, source.parts[name], source.separator_id)
        if cut:
            notes.append(f"{cut:,} chats of {name} are longer than a row and lost their end; raise data.length")
        if config.kind == "dna":  # a run of N says nothing about how well bases are predicted
            rows[name] = replace(rows[name], learned=rows[name].learned & (rows[name].tokens != UNKNOWN))
        if config.limit and config.limit < len(rows[name]):
            rows[name] = rows[name].few(config.limit)
    if config.limit:
        notes.append(f"at most {config.limit:,} rows of each part are used, of the test part too, from all over it")
    counts = {name: int((part.labels() != -100).sum()) for name, part in rows.items()}
    empty = [name for name, count in counts.items() if not count]
    if empty:
        raise DataError(f"{config.path}: nothing to predict in {', '.join(empty)}; give more data or a smaller length")
    named = [(part, d.id, source.keys[d.id]) for part in PARTS for d in source.parts[part] if d.id in source.keys]
    copies, warnings = leaks(named, NOUNS[config.kind])
    for warning in warnings:
        progress.say(f"warning: {warning}")
    units = _units(source, rows, counts)
    # name and content, so that a changed file is noticed when a run is resumed
    ids: dict[str, Sequence[str]] = {
        name: [f"{d.id} {sha256(np.ascontiguousarray(d.tokens).tobytes()).hexdigest()}" for d in source.parts[name]]
        for name in PARTS
    }
    describe = {
        "format": config.kind,
        "path": config.path,
        "items": "rows",
        "counts": {name: len(part) for name, part in rows.items()},
        "tokens": counts,
        "documents": {name: len(source.parts[name]) for name in PARTS},
        "vocabulary": max(source.size, source.separator_id + 1),
        "tokenizer": source.tokenizer,
        "row": f"{config.length:,} tokens",
        "split_hash": split_hash(ids),
        "notes": notes + warnings,
        "copies": copies,
        "chance": chance_of(rows, f"bits_per_{UNITS[config.kind]}", units, counts),
    }
    return Texts(
        rows=rows, vocab_size=describe["vocabulary"], separator_id=source.separator_id, unit=UNITS[config.kind],
        units=units, tokenizer=source.tokenizer, describe=describe, template=source.template, rate=source.rate,
    )  # fmt: skip


def _check_models(recipe: Any) -> None:
    folders = start_folders(recipe)
    if recipe.model and not (folders[0] / "config.json").is_file():
        folder, form = folders[0], "give the folder of a language model, or a published name such as"
        problem = "no config.json there"
        if not folder.is_dir():
            near = [place.name for place in folder.parent.iterdir()] if folder.parent.is_dir() else []
            problem = f"no such folder{did_you_mean(folder.name, near)}"
        raise RecipeError(f"model={recipe.model}: {problem}; {form} state-spaces/mamba-130m")
    for folder in folders:
        config = folder / "config.json"
        name = json.loads(config.read_text("utf-8")).get("model") if config.is_file() else None
        if name is not None and kind_of(name) != "language":
            raise RecipeError(f"{folder} holds {name!r}, which is no language model; give the folder of one")
    nameless = [model.label for model in recipe.models if not (model.name or model.weights or recipe.model)]
    if nameless:
        raise RecipeError(
            f"no language model is named to start from; give its folder, or a published name, as model=DIR (the models "
            f"{', '.join(nameless)} of the recipe are ways to train it)"
        )


def _rows(recipe: AnyRecipe, documents: list[Document], separator_id: int) -> tuple[Rows, int]:
    length = recipe.data.length
    if recipe.data.kind == "chat":
        return pack_whole(documents, length, separator_id, alone=not recipe.data.packing)
    if not recipe.data.packing:
        return pack_alone(documents, length, separator_id), 0
    if recipe.training.carry_state:
        return pack_streams(documents, length, separator_id, recipe.training.batch_size), 0
    return pack(documents, length, separator_id), 0


def _units(source: _Source, rows: dict[str, Rows], counts: dict[str, int]) -> dict[str, int]:
    """Bytes, bases or samples that are predicted: separators are tokens, but none of these."""
    if source.units is not None:  # of the whole part, in proportion to the tokens that are left
        whole = {name: sum(len(document.tokens) + 1 for document in source.parts[name]) for name in PARTS}
        return {name: max(1, round(source.units[name] * counts[name] / whole[name])) for name in PARTS}
    return {
        name: int(((part.labels() != -100) & (part.labels() != source.separator_id)).sum())
        for name, part in rows.items()
    }


def _text(recipe: AnyRecipe) -> _Source:
    config = recipe.data
    tokenizer, name = tokenizer_of(recipe)
    texts = read_texts(config.path, config.documents, encoding=config.encoding)
    keys = {id: text_keys(text) for id, text in texts}
    # in bytes first: the parts, and so bits per byte, are of the same text whatever the tokenizer is
    documents = [Document(id, np.frombuffer(text.encode("utf-8"), np.uint8)) for id, text in texts]
    parts, how = _divided(documents, config, keys, characters=True)
    units = None
    if name != BYTES:
        units = {part: sum(len(d.tokens) for d in found) for part, found in parts.items()}
        parts = {
            part: [Document(d.id, encoded(d.tokens.tobytes().decode("utf-8"), tokenizer, name)) for d in found]
            for part, found in parts.items()
        }
    return _Source(parts, tokenizer.size, separator_of(tokenizer), name, [how], keys, units)


def _dna(recipe: AnyRecipe) -> _Source:
    config = recipe.data
    if config.path == GENERATED:
        documents = [document for _, document in generated_bases(40, 400)]
    else:
        documents = read_fasta(config.path)
    keys = {d.id: base_keys(d.tokens) for d in documents}
    parts, how = _divided(documents, config, keys)
    notes = [how, f"tokens are {', '.join(BASES)}"]
    unknown = {name: sum(int((d.tokens == UNKNOWN).sum()) for d in parts[name]) for name in PARTS}
    if any(unknown.values()):
        sizes = {name: sum(len(d.tokens) for d in parts[name]) for name in PARTS}
        shares = ", ".join(f"{unknown[name] / sizes[name]:.1%} of {name}" for name in PARTS)
        notes.append(f"N, a base that is not known, is read but neither learned nor measured: {shares}")
    if config.reverse_complement:
        other = [Document(f"{d.id} reverse", reverse_complement(d.tokens)) for d in parts["train"]]
        parts = parts | {"train": parts["train"] + other}
        notes.append("training reads both strands")
    return _Source(parts, len(BASES), len(BASES), "", notes, keys)


def _audio(recipe: AnyRecipe) -> _Source:
    config = recipe.data
    if config.path == GENERATED:
        sounds = generated_sounds(40, 600)
        documents = [Document(f"generated/{i:04d}", mu_law(samples)) for i, (_, samples) in enumerate(sounds)]
        rate, notes = 8000, list[str]()
    else:
        documents, rate, notes = read_wavs(config.path)
    keys = {d.id: sound_keys(d.tokens) for d in documents}
    parts, how = _divided(documents, config, keys)
    notes = [how, f"{rate:,} samples per second, 8 bits by mu-law", *notes]
    return _Source(parts, LEVELS, LEVELS, "", notes, keys, rate=rate)


def _chat(recipe: AnyRecipe) -> _Source:
    config = recipe.data
    tokenizer, name = tokenizer_of(recipe)
    chats = generated_chats(240) if config.path == GENERATED else read_chats(config.path)
    separator_id, template = separator_of(tokenizer), _template(recipe, tokenizer)

    def encode(text: str) -> list[int]:
        return encoded(text, tokenizer, name).tolist()

    write: Callable = chat_document if isinstance(template, ChatTemplate) else chat_tokens
    documents = [write(id, messages, template, encode, separator_id) for id, messages in chats]
    keys = {id: text_keys("\n".join(f"{role}: {text}" for role, text in messages)) for id, messages in chats}
    parts, how = _divided(documents, config, keys)
    notes = [how, "only answers are learned and measured"]
    if isinstance(template, ChatTemplate):
        notes.append(f"messages are written by the model's own chat template, {template.source}")
    elif template != config.template.model_dump():
        notes.append(
            f"messages are written as the model was trained on them, by {start_folders(recipe)[0]}/preprocess.json"
        )
    return _Source(parts, tokenizer.size, separator_id, name, notes, keys, template=template)


def _template(recipe: AnyRecipe, tokenizer: Tokenizer) -> dict[str, str] | ChatTemplate:
    """How messages become text: the model's own template, unless the recipe has another one than recipes begin with."""
    own = recipe.data.template
    if recipe.data.chat_template == "recipe" or own != type(own)():
        return own.model_dump()
    folders = start_folders(recipe)[:1]
    for folder in folders:
        file = folder / "preprocess.json"
        known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        if isinstance(known.get("template"), dict):
            return type(own).model_validate(known["template"]).model_dump()
    path = getattr(tokenizer, "path", None)
    found = find_template(([] if path is None else [Path(path).parent]) + folders)
    return own.model_dump() if found is None else found


def _divided(documents: list[Document], config: Any, keys: dict[str, Keys], characters: bool = False):
    """The parts; where they are not given, near copies of a document are held out together with it."""
    digests = [keys[document.id].near for document in documents]
    parts, how = divide(
        documents,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        seed=config.split_seed,
        characters=characters,
        digests=digests,
    )
    copies = len(digests) - len(set(digests))
    if copies:
        how += f"; {copies:,} of {len(digests):,} are copies of others and in the same part as these"
    return parts, how
