"""`sort_files`: from the files of a folder or a zip to (part, class, group) for each, whatever kind of data they are.

Every reader and every command asks this one function, so `ssmlab data check` and `ssmlab run` see the same data.

    parts       train/<class>/*, test/<class>/*, in all usual spellings (ssmlab.data.names); also <class>/train/*,
                train/train/<class>/*, train/images/<class>/*; and lists (testing_list.txt, meta/test.txt) of files
    classes     the folders next to each other at the level below the parts; every depth below one belongs to it
                (years, patients). A FASTA file is a class where files do not lie in class folders. A flat folder of
                sounds <class>_<speaker>_<number>.wav is sorted by these names.
    groups      folds of a cross-validation (fold1/<class>/*): no classes and no parts, but whole folds stay on one
                side of a split. Of <speaker>_nohash_<number>.wav the speaker.
    portions    batch1/<class>/*, 2019/<class>/*: put together
    no class    system folders, unlabelled examples (unsup), _background_noise_
    no example  masks next to images (x_mask.png, masks/x.png), thumbnails, notes and licences among texts, lists
    not read    pictures, sounds and texts in formats that have no reader here (HEIC, MP3, PDF ...)

A folder that holds all the rest (the top folder of an archive) is passed through. What is left out is a note with the
first three names and a count; what would make a wrong data set is a problem.
"""

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ssmlab.data import names as words
from ssmlab.data.class_tree import ClassTree
from ssmlab.data.contents import alike, count, some
from ssmlab.data.examples import choose_examples
from ssmlab.data.files import Files, FolderFiles
from ssmlab.data.images.decode import UnreadableImage
from ssmlab.data.kinds import KINDS, Example, Sorted
from ssmlab.data.text.encoding import decode_text

BY_FILE = "a file is a class, its records are the sequences"
BY_FOLDER = "a folder is a class, the records of its files are the sequences"
LIST_BYTES = 64 << 20  # a longer .txt is no list of files
SPOKEN_TEST = 5  # recordings below this number are the test part of the spoken digits, as their authors have it
_SPOKEN = re.compile(r"(?P<label>[^_]+)_(?P<speaker>[^_]+)_(?P<index>\d+)")
_SPEAKER = re.compile(r"(?P<speaker>.+)_nohash_\d+")


def sort_files(
    files: Files,
    kind: str,
    *,
    classed: bool = True,
    top: str | None = None,
    is_class: Callable[[str], object] | None = None,
    label_loose: Callable[[list[Example]], dict[str, str]] | None = None,
) -> Sorted:
    """Sort the files of one kind into parts, classes and groups, and say what is left out and what is wrong.

    Args:
        kind: of `KINDS`; other files are no examples.
        classed: whether folders are classes. Else only parts are decided, by folders and by files' names, and every
            example is kept.
        top: the folder that holds all ("" or "a/b"), where it is known.
        is_class: whether a folder of this name is a class; None for all.
        label_loose: gives a class to some of the examples that lie outside of all class folders, by name.
    """
    rule = KINDS[kind]
    found = Sorted(problems=list(files.problems))
    chosen, others = choose_examples(files, kind, rule, classed, found)
    if not classed:
        found.prefix = top_of(files.files)
        parts = parts_of(chosen, folders_only=kind == "mask")
        folds = [next(filter(words.is_fold, reversed(name.split("/")[:-1])), None) for name in chosen]
        found.folds = sorted({fold for fold in folds if fold})
        folds = folds if len(found.folds) > 1 else [None] * len(folds)
        found.examples = [
            Example(name, part, None, fold) for name, part, fold in zip(chosen, parts, folds, strict=True)
        ]
        if kind == "mask" and not any(parts):
            _by_lists(files, found, masks=True)
        _note_rest(files, rule, found, [] if kind in ("image", "mask", "scan", "volume", "chat") else others)
        return found
    tree = ClassTree(files, chosen, rule, is_class, found)
    tree.sort(top)
    if kind == "dna":
        _by_files(found)
    elif kind == "audio":
        _by_spoken_names(found)
    if label_loose:
        labels = label_loose(found.loose)
        found.examples += [replace(e, label=labels[e.name]) for e in found.loose if e.name in labels]
        found.loose = [example for example in found.loose if example.name not in labels]
    elif not any(example.part for example in found.examples):
        _by_lists(files, found)
    found.examples.sort(key=lambda example: example.name)
    found.classes = sorted({*found.classes, *(example.label or "" for example in found.examples)})
    found.warnings += alike(found.classes)
    filled = tuple(f"{folder}/" for folder in tree.filled)
    _note_rest(files, rule, found, [name for name in others if name.startswith(filled)])
    if found.folds:
        found.notes.append(
            f"{some(sorted(found.folds))}: folds of a cross-validation, neither classes nor parts; whole folds are "
            "held out, which is one split of that cross-validation"
        )
    return found


def files_in(paths: Iterable[Path], kind: str, noun: str, *, strict: bool) -> tuple[list[Path], list[str], list[str]]:
    """The files of a kind in what a command is given, files and folders, without parts and classes.

    Args:
        noun: what messages call them.
        strict: whether what a reader warns of is a problem; else it is a note.
    Returns:
        files, problems, and notes on what the folders hold besides: masks next to images, thumbnails, system files.
    """
    files: list[Path] = []
    problems: list[str] = []
    notes: list[str] = []
    for path in paths:
        if path.is_dir():
            listing = FolderFiles(path)
            found = sort_files(listing, kind, classed=False)
            files += [path / listing.files[example.name] for example in found.examples]
            (problems if strict else notes).extend(f"{path}: {warning}" for warning in found.warnings)
            problems += [] if found.examples else [f"{path}: no {noun} in this folder"]
            notes += [f"{path}: {note}" for note in found.notes]
        elif path.is_file():
            files.append(path)
        else:
            problems.append(f"{path}: no such file or folder")
    return files, problems, notes


def parts_of(names: Iterable[str], *, folders_only: bool = False) -> list[str | None]:
    """The part of every file: by the outermost of its folders that is named after one, or by its own name, where all
    files in its folder have such names.

    Args:
        folders_only: for images with masks: the innermost folder, which may say more than the part: train_masks,
            imagesTr.
    """
    names = list(names)
    if folders_only:
        told = [[p for step in name.split("/")[:-1] if (p := words.folder_meaning(step)[0])] for name in names]
        return [parts[-1] if parts else None for parts in told]
    paths = [[*name.split("/")[:-1], words.stem_of(name)] for name in names]
    siblings: dict[tuple[str, bool], set[str]] = {}
    for steps in paths:
        for depth, step in enumerate(steps):
            siblings.setdefault(("/".join(steps[:depth]), depth == len(steps) - 1), set()).add(step)
    meant = {place: words.parts_among(inside) for place, inside in siblings.items()}
    meant |= {place: {} for place, parts in meant.items() if place[1] and len(parts) < len(siblings[place])}

    def part(steps):
        places = (("/".join(steps[:depth]), depth == len(steps) - 1) for depth in range(len(steps)))
        return next((p for place, step in zip(places, steps, strict=True) if (p := meant[place].get(step))), None)

    return [part(steps) for steps in paths]


def top_of(names: Iterable[str]) -> str:
    """The folder that holds everything ("" or "a/b/") and is no part or fold."""
    folders = [name.split("/")[:-1] for name in names]
    top = next(iter(folders), [])
    for steps in folders:
        top = [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(top, steps, strict=False))]
    meant = next((n for n, s in enumerate(top) if words.folder_meaning(s)[0] or words.is_fold(s)), len(top))
    return "".join(f"{step}/" for step in top[:meant])


def _by_files(found):
    """Genes: a file is a class, where files do not all lie in class folders."""
    if len({example.label for example in found.examples}) > 1 and not found.loose:
        found.notes.append(BY_FOLDER)
        return
    every = [*found.examples, *found.loose]
    stems = {example.name: words.stem_of(example.name) for example in every}
    if not any(example.part for example in every):
        told = {name: words.folder_meaning(stem) for name, stem in stems.items()}
        parts, rests = {part for part, _ in told.values()}, {rest for _, rest in told.values()}
        if None not in parts and len(parts) > 1 and rests == {""}:
            found.problems.append(
                f"{some(stems)}: named after parts, and nothing says the classes; expected <part>/<class>.fa, "
                "<class>.fa or <class>/*.fa"
            )
        elif None not in parts and len(parts) > 1 and "" not in rests:  # promoter_train.fa, enhancer_test.fa
            every = [replace(example, part=told[example.name][0]) for example in every]
            stems = {name: rest for name, (_, rest) in told.items()}
    found.examples = [replace(example, label=stems[example.name]) for example in every]
    found.loose, found.classes = [], []
    found.notes.append(BY_FILE)


def _by_spoken_names(found):
    """Sounds: the class is the folder; in a flat folder the first word of <class>_<speaker>_<number>.wav."""
    every = [*found.examples, *found.loose]
    stems = {example.name: words.stem_of(example.name) for example in every}
    spoken = {name: match for name, stem in stems.items() if (match := _SPOKEN.fullmatch(stem))}
    speakers = {name: match["speaker"] for name, stem in stems.items() if (match := _SPEAKER.fullmatch(stem))}
    if len({example.label for example in found.examples}) > 1:
        if len(speakers) == len(every):
            found.examples = [replace(e, group=e.group or speakers[e.name]) for e in found.examples]
    elif spoken and len(spoken) == len(every):
        digits = {match["label"] for match in spoken.values()} <= set("0123456789")
        published = digits and not any(example.part for example in every)
        found.examples = [
            replace(
                example,
                label=spoken[example.name]["label"],
                part="test" if published and int(spoken[example.name]["index"]) < SPOKEN_TEST else example.part,
            )
            for example in every
        ]
        found.loose, found.classes = [], []
        found.notes.append(
            "the class is the first word of a name, <class>_<speaker>_<number>.wav"
            + (f"; numbers below {SPOKEN_TEST} are the test part" if published else "")
        )
    elif spoken:
        odd = [name for name in stems if name not in spoken]
        found.problems.append(
            f"some names are <class>_<speaker>_<number>.wav, {len(odd):,} are not ({some(odd)}); keep one of the "
            "forms, or put every sound into the folder of its class"
        )


def _by_lists(files, found, masks=False):
    """Parts by lists of files: testing_list.txt and validation_list.txt, or meta/train.txt and meta/test.txt.

    Args:
        masks: whether the examples are images and masks; a list then names the stem of both, as Pascal VOC's
            ImageSets/Segmentation/train.txt.
    """
    known: dict[str, list[str]] = {}
    for example in found.examples:
        own = example.name.removeprefix(found.prefix)
        stem = words.stem_of(own)
        stem = words.without(words.image_of_mask(stem) or stem, words.IMAGE_SUFFIXES)
        for name in {own, own.rpartition(".")[0], *([stem] if masks else [])}:
            known.setdefault(name, []).append(example.name)
    by_folder: dict[str, dict[str, str]] = {}
    named: dict[str, list[str]] = {}
    for name in files.files:
        part, rest = words.folder_meaning(words.stem_of(name))
        depth = name.removeprefix(found.prefix.partition("/")[0] + "/").count("/")
        if not part or not name.lower().endswith((".txt", ".lst")) or depth > 1 + masks:
            continue
        if any(word not in words.FILLERS for word in rest.split("_") if word):
            continue
        try:
            lines = decode_text(files.read(name)[:LIST_BYTES]).splitlines()
        except (UnreadableImage, ValueError):
            continue  # it is no list
        members = [member for line in lines for member in known.get(line.strip(), ())]
        if members:
            folder = name.rpartition("/")[0]
            named.setdefault(folder, []).append(name)
            by_folder.setdefault(folder, {}).update(dict.fromkeys(members, part))
    if not by_folder:
        return
    # Of several folders, those of VOC's tasks, the one of segmentation; else the one that names most
    best = max(by_folder, key=lambda folder: (masks and "seg" in folder.casefold(), len(by_folder[folder])))
    part_of, lists = by_folder[best], named[best]
    other = None if "train" in part_of.values() else "train"
    unlisted = [example.name for example in found.examples if example.name not in part_of]
    found.notes.append(f"the parts are those of {', '.join(lists)}")
    if unlisted and other is None:
        found.notes.append(f"left out: {count(len(unlisted), 'file')} in none of the lists ({some(unlisted)})")
    found.examples = [
        replace(example, part=part_of.get(example.name, other))
        for example in found.examples
        if other or example.name in part_of
    ]
    found.loose = [example for example in found.loose if example.name not in lists]


def _note_rest(files, rule, found, others):
    """What lies outside of class folders, what in them is of another kind, what is not read, and what is hidden."""
    loose = [example.name.removeprefix(found.prefix) for example in found.loose]
    others = [name.removeprefix(found.prefix) for name in others]
    notes = []
    if loose and found.examples:
        notes.append(f"left out: {count(len(loose), rule.noun)} outside of class folders ({some(loose)})")
    elif loose:
        found.problems.append(f"{some(loose)}: outside of class folders; move each to <part>/<class>/")
    if others:
        notes.append(f"left out: {count(len(others), 'file')} of another kind ({some(others)})")
    found.notes[:0] = notes
    if found.unread:
        unread = [name.removeprefix(found.prefix) for name in found.unread]
        longest = sorted(rule.unread, key=len, reverse=True)
        endings = ", ".join(sorted({next((e for e in longest if n.lower().endswith(e)), "HEIF") for n in unread}))
        found.warnings.append(
            f"left out: {count(len(unread), 'file')} of formats that are not read, {endings} ({some(unread)}); "
            f"{rule.fix}"
        )
    if files.ignored:
        ignored = [name.removeprefix(found.prefix) for name in files.ignored]
        found.notes.append(f"left out: {count(len(ignored), 'hidden or system file')} ({some(ignored)})")
