"""Sequences with labels: reviews in class folders, genes in FASTA files, spoken words. numpy only."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.contents import count, some
from ssmlab.data.copies import first_copies
from ssmlab.data.files import FolderFiles, ZipFiles, open_files
from ssmlab.data.images.decode import UnreadableImage
from ssmlab.data.kinds import Example, Sorted
from ssmlab.data.label_tables import ENDINGS, FOLDERS, Labels, read_labels
from ssmlab.data.leaks import Keys, base_keys, leaks, sound_keys, text_keys
from ssmlab.data.named import Records
from ssmlab.data.near import near_texts
from ssmlab.data.parts import BY_FILE, BY_FOLDER, parts_of, sort_files
from ssmlab.data.sequences.fasta import read_fasta, record_names, unpacked
from ssmlab.data.sequences.wav import mu_law, read_wavs
from ssmlab.data.splits import TEST_FRACTION, about_split, held_out
from ssmlab.data.synthetic.recall import RATE, generated_bases, generated_reviews, generated_sounds
from ssmlab.data.text.documents import File, find_files, read_texts
from ssmlab.data.text.encoding import UTF8

GENERATED = "generated"
FEWEST = 3  # a class of fewer sequences cannot have all three parts
FORMS = {
    "text": "<class>/*.txt or <part>/<class>/*.txt",
    "dna": "a FASTA file for each class, or <class>/*.fa, also below <part>/; or FASTA and a table id,label next to it",
    "audio": "<class>/*.wav, <part>/<class>/*.wav or <class>_<speaker>_<number>.wav",
}


_KEYS: dict[str, Callable[..., Keys]] = {"text": text_keys, "dna": base_keys, "audio": sound_keys}
_NOUNS = {"text": "texts", "dna": "sequences", "audio": "sounds"}


class Labelled(NamedTuple):
    """A sequence with its class: a text or tokens (l,).

    part: None where its publisher does not say. group: what stays on one side of a split, a fold or a speaker.
    """

    id: str
    label: str
    part: str | None
    content: str | np.ndarray
    group: str | None = None


@dataclass
class LabelledData:
    """Labelled sequences in three parts.

    Attributes:
        held: part -> positions in `items`.
        rate: samples per second of sounds, else 0.
        notes: what was decided and left out. warnings: of these what may be a mistake.
        copies: what of val and test is in an earlier part, see ssmlab.data.leaks.
    """

    items: list[Labelled]
    rate: int
    notes: list[str]
    warnings: list[str]
    held: dict[str, list[int]] = field(default_factory=dict)
    copies: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted({item.label for item in self.items}))


def open_labelled(
    path: str,
    kind: str,
    *,
    val_fraction: float,
    seed: int,
    encoding: str = UTF8,
    labels: str = "",
    group: str = "",
    rate: int = 0,
) -> LabelledData:
    """Labelled sequences, the published parts or parts by the hashes of names, and copies across them.

    Copies of a sequence, a fold's sequences and a speaker's stay on one side of a split that is made here. The
    arguments are those of `read_labelled`.

    Raises:
        DataError: with everything that cannot be read or has no class; or a part or a class would be empty.
    """
    data = read_labelled(path, kind, encoding, labels, group, rate)
    keys = [_KEYS[kind](item.content) for item in data.items]
    near = [key.near for key in keys]
    data.held = assign_parts(data.items, val_fraction=val_fraction, seed=seed, digests=near)
    published = {item.part for item in data.items}
    left = {part: len(positions) for part, positions in data.held.items()}
    if None in published and len(published) > 1:
        published.discard("train")
    of = "train" if "train" in published else "all"
    grouped = "group" if any(item.group for item in data.items) else ""
    for part, fraction in (("test", TEST_FRACTION), ("val", val_fraction)):
        if part not in published:
            total = left["train"] + left["val"] * ("val" not in published) + left["test"] * (part == "test")
            how = f"stratified, seed {seed}"
            data.notes.append(
                about_split(part, of, left[part], total, "sequences", fraction=fraction, whole=grouped, how=how)
            )
        of = "train"
    learned = {data.items[i].label for i in data.held["train"]}
    unlearned = [name for name in data.classes if name not in learned]
    if unlearned:
        raise DataError(f"{path}: no sequences in train of {some(unlearned)}; add some, or remove these classes")
    held = ((part, data.items[i].id, keys[i]) for part, positions in data.held.items() for i in positions)
    data.copies, warnings = leaks(held, _NOUNS[kind])
    data.warnings += warnings
    if kind == "text":
        whole = ((part, data.items[i].id, str(data.items[i].content)) for part, own in data.held.items() for i in own)
        data.notes += near_texts(whole)
    named: dict[bytes, dict[str, str]] = {}
    for item, key in zip(data.items, keys, strict=True):
        named.setdefault(key.exact, {}).setdefault(item.label, item.id)
    twice = [ids for ids in named.values() if len(ids) > 1]
    if twice:
        first = " = ".join(f"{label}: {id}" for label, id in list(twice[0].items())[:3])
        data.warnings.append(f"{count(len(twice), 'sequence')} with more than one label ({first})")
    copies = len(near) - len(set(near))
    if copies and not data.copies:
        are = "is a copy" if copies == 1 else "are copies"
        data.notes.append(f"{count(copies, 'sequence')} {are} of others, and in the same part as these")
    return data


def read_labelled(
    path: str, kind: str, encoding: str = UTF8, labels: str = "", group: str = "", rate: int = 0
) -> LabelledData:
    """Labelled sequences, not yet divided.

    Args:
        path: or "generated". A folder or a .zip as `FORMS` and ssmlab.data.parts say.
        kind: "text", "dna" or "audio".
        encoding: of texts, where they are not UTF-8.
        labels, group: columns of a table of labels, see ssmlab.data.label_tables.
        rate: samples per second that sounds are brought to; 0: those of most.
    Raises:
        DataError: with everything that cannot be read or has no class.
    """
    if path == GENERATED:
        makers: dict[str, Callable[[], list]] = {
            "text": lambda: generated_reviews(240),
            "dna": lambda: [(label, document.tokens) for label, document in generated_bases(240, 160)],
            "audio": lambda: [(label, mu_law(samples)) for label, samples in generated_sounds(240, 240)],
        }
        items = [
            Labelled(f"generated/{i:04d}", label, None, content) for i, (label, content) in enumerate(makers[kind]())
        ]
        return LabelledData(items, RATE if kind == "audio" else 0, ["the sequences are generated"], [])
    found, files = _listed(path, kind, labels, group)
    examples = {example.name.removeprefix(found.prefix): example for example in found.examples}
    contents: list[tuple[str, str, Any]]
    if kind == "text":  # of lines of JSON each is a text
        contents = [(id, _file_of(id, examples), text) for id, text in read_texts(path, files=files, encoding=encoding)]
    elif kind == "dna":
        by_record = examples.keys() != {id for id, _ in files}  # by a table of them
        named = [(d, d.id if by_record else _file_of(d.id, examples)) for d in read_fasta(path, files)]
        contents = [(d.id, name, d.tokens) for d, name in named if name in examples]
    else:
        documents, rate, notes = read_wavs(path, files, rate)
        contents = [(d.id, d.id, d.tokens) for d in documents]
        found.notes += [f"{rate:,} samples per second, 8 bits by mu-law", *notes]
    items = [
        Labelled(id, examples[name].label or "", examples[name].part, content, examples[name].group)
        for id, name, content in contents
    ]
    counts = Counter(item.label for item in items)
    rare = sorted(label for label, n in counts.items() if n < FEWEST)
    if rare:
        found.notes.append(f"classes of fewer than {FEWEST} sequences are left out: {', '.join(rare)}")
        items = [item for item in items if item.label not in rare]
    if len(counts) - len(rare) < 2:
        raise DataError(
            f"{path}: fewer than two classes of {FEWEST} sequences and more ({some(counts)}); expected {FORMS[kind]}"
        )
    return LabelledData(items, rate, found.notes, found.warnings)


def _file_of(id: str, known) -> str:
    """The file of "<file>:<record>", where both may hold a colon, or of "<file>"."""
    return (
        id if id in known else next(name for i, letter in enumerate(id) if letter == ":" and (name := id[:i]) in known)
    )


def _listed(path: str, kind: str, labels: str, group: str) -> tuple[Sorted, list[tuple[str, File]]]:
    """What a folder or a .zip holds, sorted, and the files of its examples as (id, file)."""
    listing = open_files(path)
    if listing is None:
        find_files(path, kind, FORMS[kind])
        raise DataError(f"{path}: a single file has no classes; expected a folder with {FORMS[kind]}")
    found = sort_files(listing, kind)
    if not (found.examples or found.loose):
        find_files(path, kind, FORMS[kind])
    every = sorted(example.name for example in (*found.examples, *found.loose))
    if labels != FOLDERS or group:
        _take_table(found, listing, labels_of(found, listing, kind, labels, group), labels, group)
    if found.problems:
        raise DataError(f"{path}: {count(len(found.problems), 'problem')} in the data", found.problems)
    if any(example.name not in listing.files for example in found.examples):  # they are records of these files
        return found, [(name.removeprefix(found.prefix), listing.at(name)) for name in every]
    return found, [(e.name.removeprefix(found.prefix), listing.at(e.name)) for e in found.examples]


def labels_of(
    found: Sorted, listing: FolderFiles | ZipFiles, kind: str, column: str = "", group: str = ""
) -> Labels | None:
    """What tables next to the sequences say of them, see `read_labels`; None where there is none.

    Of genes a table names the records, `id,label`, and then `found` holds these in place of their files; or the files.
    """
    every = [*found.examples, *found.loose]
    column, names = column if column != FOLDERS else "", sorted(example.name for example in every)
    if kind != "dna" or not any(name.lower().endswith(ENDINGS) for name in listing.files):
        return read_labels(listing, names, column=column, group=group or None)
    of = [(example, name) for example in every for name in _record_names(listing, example.name)]
    index = Records([f"{example.name}:{name}" for example, name in of], [example.name for example, _ in of])
    labels = read_labels(listing, index, column=column, group=group or None)
    if labels is None or not (labels.rows or labels.groups):
        return read_labels(listing, names, column=column, group=group or None) or labels
    classed = {example.name for example in found.examples}
    records = [
        (example.name, replace(example, name=(id := f"{example.name}:{name}"), part=example.part or index.parts[id]))
        for example, name in of
    ]
    found.examples = [record for file, record in records if file in classed]
    found.loose = [record for file, record in records if file not in classed]
    return labels


def _record_names(listing, name):
    """Names of the records of a FASTA file; none of what cannot be read, which its reader reports."""
    try:
        return record_names(unpacked(listing.read(name)))
    except (UnreadableImage, ValueError, OSError, EOFError):
        return []


def _take_table(found: Sorted, listing: FolderFiles | ZipFiles, labels: Labels | None, column: str, group: str) -> None:
    """The classes by a table of labels, where there is one and folders are not the classes; and the groups."""
    if labels is None:
        if column not in ("", FOLDERS) or group:
            found.problems.append(
                f"data.labels and data.group name columns of a table, and none names files of {listing.path}"
            )
        return
    by_folder = len({example.label for example in found.examples}) > 1 and not found.problems
    if column == FOLDERS or (by_folder and not (column or labels.named)):  # such as a table of speakers
        _take_groups(found, labels, group)
        return
    of_folder = {example.name: example.label for example in found.examples}
    agree = all(of_folder.get(name) == row.label for name, row in labels.rows.items())
    if by_folder and not column and not agree:
        found.problems.append(
            f"folders or names ({some(found.classes)}) and {some(labels.tables)}, column {labels.column} "
            f"({some(labels.classes)}), say different classes; data.labels=table takes the table's, "
            "data.labels=folders the others"
        )
        return
    every = sorted((*found.examples, *found.loose), key=lambda example: example.name)
    names = [example.name for example in every]
    by_file = all(name in listing.files for name in names)  # else records, whose files' parts are known
    parts = dict(zip(names, parts_of(names) if by_file else [example.part for example in every], strict=True))
    parted = {row.part for row in labels.rows.values()} != {None}
    found.examples = [
        Example(name, row.part if parted else parts[name], row.label, row.group) for name, row in labels.rows.items()
    ]
    found.problems = [*listing.problems, *labels.problems]
    left = [name for name in names if name not in labels.rows]
    found.notes = [note for note in found.notes if not any(name in note for name in labels.tables)] + labels.notes
    found.notes = [note for note in found.notes if note not in (BY_FILE, BY_FOLDER)]
    noun = "file" if by_file else "sequence"
    found.notes += [f"left out: {count(len(left), noun)} in no table of labels ({some(left)})"] if left else []
    found.warnings += labels.warnings


def _take_groups(found, labels, group):
    """The groups that a table names for sequences whose classes are their folders or files."""
    if group:
        without = [example.name for example in found.examples if example.name not in labels.groups]
        found.problems += labels.group_problems
        if without and not labels.group_problems:
            found.problems.append(
                f"{len(without):,} of {len(found.examples):,} have no {group} ({some(without)}); add it"
            )
        found.examples = [replace(example, group=labels.groups.get(example.name)) for example in found.examples]


def assign_parts(
    items: list[Labelled], *, val_fraction: float, seed: int, digests: Sequence[bytes] = ()
) -> dict[str, list[int]]:
    """Positions by part: the published ones; a test that is missing is a fifth of every class, val is taken from train.

    Args:
        digests: of the items: equal ones are kept in one part, where they are not published in several.
    Raises:
        DataError: a part would be empty.
    """
    ids = [item.id for item in items]
    copies = first_copies(ids, digests) if digests else ids
    sides = [item.group or copy for item, copy in zip(items, copies, strict=True)]
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    published = {item.part for item in items}
    train = [i for i, item in enumerate(items) if item.part in (None, "train")]
    test = set() if "test" in published else _held(items, sides, train, TEST_FRACTION, seed, "test")
    train = [i for i in train if i not in test]
    val = set() if "val" in published else _held(items, sides, train, val_fraction, seed, "val")
    for i, item in enumerate(items):
        part = "test" if i in test else "val" if i in val else item.part or "train"
        parts[part].append(i)
    empty = [name for name, held in parts.items() if not held]
    if empty:
        raise DataError(f"the parts {', '.join(empty)} would be empty; give more sequences")
    return parts


def _held(items, sides, positions, fraction, seed, part):
    ids, labels = [items[i].id for i in positions], [items[i].label for i in positions]
    chosen = held_out(ids, labels, [sides[i] for i in positions], fraction=fraction, seed=seed, part=part)
    if not chosen and any(items[i].group for i in positions):  # one fold is left
        chosen = held_out(ids, labels, fraction=fraction, seed=seed, part=part)
    return {positions[i] for i in chosen}
