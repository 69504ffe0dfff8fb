"""Texts, genes, sounds and chats read as a run reads them: parts, classes, lengths, copies, what is left out."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from ssmlab.data.leaks import base_keys, leaks, sound_keys, text_keys
from ssmlab.data.near import near_texts
from ssmlab.data.sequences.fasta import read_fasta
from ssmlab.data.sequences.reader import open_labelled
from ssmlab.data.sequences.wav import read_wavs
from ssmlab.data.splits import split_hash
from ssmlab.data.text.documents import Document, divide, left_out, read_texts
from ssmlab.data.text.encoding import UTF8
from ssmlab.data.text.jsonl import read_chats

PARTS = ("train", "val", "test")
UNITS = {"text": "bytes", "chat": "bytes", "dna": "bases", "audio": "samples"}


@dataclass(frozen=True, kw_only=True)
class SequenceReport:
    """What `check_sequences` found. Problems are raised: what cannot be read has no parts.

    Attributes:
        task: classify_sequence | language. format: text | dna | audio | chat.
        classes: none for language models.
        counts: part -> sequences, or documents. balance: part -> class -> sequences. units: part -> bytes, bases or
            samples.
        lengths: (smallest, median, largest) of all, in `unit`.
        copies: what of val and test is in an earlier part, see ssmlab.data.leaks.
    """

    name: str
    task: str
    format: str
    path: str
    classes: tuple[str, ...]
    split_hash: str
    counts: dict[str, int]
    balance: dict[str, dict[str, int]]
    units: dict[str, int]
    unit: str
    lengths: tuple[int, float, int]
    copies: dict[str, dict[str, int]]
    warnings: list[str]
    notes: list[str]

    ok = True

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {"ok": self.ok, **asdict(self), "problems": []}


def check_sequences(
    path: str,
    kind: str,
    task: str,
    *,
    val_fraction: float = 0.1,
    seed: int = 0,
    encoding: str = UTF8,
    labels: str = "",
    group: str = "",
) -> SequenceReport:
    """Read all sequences of a path, divide them as a run does, and look for copies.

    Args:
        kind: text, dna, audio or chat. task: classify_sequence or language.
        encoding: of texts, where they are not UTF-8. labels, group: columns of a table of labels.
    Raises:
        DataError: with every problem, by file name.
    """
    if task == "classify_sequence":
        data = open_labelled(
            path, kind, val_fraction=val_fraction, seed=seed, encoding=encoding, labels=labels, group=group
        )
        held = {part: [data.items[i] for i in data.held[part]] for part in PARTS}
        parts = {part: [(item.id, _tokens(item.content)) for item in items] for part, items in held.items()}
        classes = {part: [item.label for item in items] for part, items in held.items()}
        copies, warnings, notes = data.copies, data.warnings, data.notes
    else:
        parts, classes, (copies, warnings, notes) = _documents(path, kind, val_fraction, seed, encoding)
    lengths = sorted(len(content) for found in parts.values() for _, content in found)
    names = sorted({label for found in classes.values() for label in found})
    return SequenceReport(
        name=Path(path).expanduser().resolve().name,
        task=task,
        format=kind,
        path=path,
        classes=tuple(names),
        counts={part: len(found) for part, found in parts.items()},
        balance={part: {name: found.count(name) for name in names} for part, found in classes.items()},
        units={part: sum(len(content) for _, content in found) for part, found in parts.items()},
        unit=UNITS[kind],
        lengths=(lengths[0], float(median(lengths)), lengths[-1]),
        split_hash=split_hash({part: [content_id(id, content) for id, content in parts[part]] for part in PARTS}),
        copies=copies,
        warnings=warnings,
        notes=notes,
    )


def content_id(id: str, tokens: np.ndarray) -> str:
    """Name and content, so that a changed file changes the hash of the split."""
    return f"{id} {hashlib.sha256(np.ascontiguousarray(tokens).tobytes()).hexdigest()}"


def _documents(path, kind, val_fraction, seed, encoding):
    notes: list[str] = []
    if kind == "text":
        texts = read_texts(path, encoding=encoding)
        documents, keys = [Document(id, _tokens(text)) for id, text in texts], [text_keys(text) for _, text in texts]
    elif kind == "chat":
        texts = [(id, "\n".join(f"{role}: {text}" for role, text in messages)) for id, messages in read_chats(path)]
        documents, keys = [Document(id, _tokens(text)) for id, text in texts], [text_keys(text) for _, text in texts]
    elif kind == "dna":
        documents = read_fasta(path)
        keys = [base_keys(document.tokens) for document in documents]
    else:
        documents, rate, notes = read_wavs(path)
        notes = [f"{rate:,} samples per second, 8 bits by mu-law", *notes]
        keys = [sound_keys(document.tokens) for document in documents]
    held, how = divide(
        documents,
        val_fraction=val_fraction,
        test_fraction=0.1,
        seed=seed,
        characters=kind == "text",
        digests=[key.near for key in keys],
    )
    parts = {part: [(d.id, np.asarray(d.tokens)) for d in held[part]] for part in PARTS}
    key_of = {document.id: key for document, key in zip(documents, keys, strict=True)}
    whole = ((part, d.id, key_of[d.id]) for part in PARTS for d in held[part] if d.id in key_of)
    noun = "chats" if kind == "chat" else "documents"
    copies, warnings = leaks(whole, noun)
    if kind in ("text", "chat"):
        contents = (
            (part, id_, tokens.tobytes().decode("utf-8", "replace")) for part in PARTS for id_, tokens in parts[part]
        )
        notes = [*notes, *near_texts(contents, noun)]
    return parts, {}, (copies, warnings, [how, *notes, *left_out(path, kind)])


def _tokens(content):
    return np.frombuffer(content.encode("utf-8"), np.uint8) if isinstance(content, str) else np.asarray(content)
