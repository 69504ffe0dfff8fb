"""ImageNet's layout (Russakovsky et al. 2015, arXiv:1409.0575): class folders named by wnid, such as n01440764.

The classes are the wnids that there are folders of, sorted: the order of torchvision, timm and of published weights.
An index among the files names them; without one a class is called by its wnid. Known indices, the first one found:
LOC_synset_mapping.txt, imagenet_class_index.json, synset_words.txt, words.txt.

A val folder may be flat, with a table of its labels: LOC_val_solution.csv, val_annotations.txt (Tiny ImageNet), or
ILSVRC2012_validation_ground_truth.txt. The last one has a line for every image in the order of their names: a wnid,
or an ILSVRC2012_ID, a number in an order of its own, which only meta.mat of the development kit translates.

The labels of ImageNet's test are not public. Where no labelled test is there, val is the test part, and validation is
taken from train.
"""

import io
import json
import re
from collections import Counter
from dataclasses import replace
from functools import partial

from ssmlab.data.contents import Contents, Format, count, some
from ssmlab.data.files import IMAGE_SUFFIXES, FolderFiles, ZipFiles
from ssmlab.data.images.decode import UnreadableImage
from ssmlab.data.images.folders import read_folders
from ssmlab.data.kinds import Example
from ssmlab.data.names import parts_among
from ssmlab.data.parts import sort_files
from ssmlab.data.tables import read_table
from ssmlab.data.text.encoding import decode_text

WNID = re.compile(r"n\d{8}")
INDICES = ("LOC_synset_mapping.txt", "imagenet_class_index.json", "synset_words.txt", "words.txt")
SOLUTION, ANNOTATIONS = "LOC_val_solution.csv", "val_annotations.txt"
GROUND_TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
TABLES = (SOLUTION, ANNOTATIONS, GROUND_TRUTH)


def find_imagenet(files: FolderFiles | ZipFiles) -> str | None:
    """Where {train,val}/n01440764/*, or only n01440764/*, are among these files ("" or "a/b/"), or None."""
    prefixes = set()
    for name in files.files:
        steps = name.split("/")
        at = next((i for i, step in enumerate(steps[:-1]) if WNID.fullmatch(step)), None)
        if at is None or not name.lower().endswith(IMAGE_SUFFIXES):
            continue
        if at and parts_among([steps[at - 1]]):
            at -= 1
        prefixes.add("".join(f"{step}/" for step in steps[:at]))
    if len(prefixes) != 1:
        return None
    prefix = prefixes.pop()
    children = {name[len(prefix) :] for name in files.folders if name.startswith(prefix)}
    direct = [name for name in children if "/" not in name]
    if not parts_among(direct) and not all(map(WNID.fullmatch, direct)):
        return None  # ordinary class folders, of which one has the name of a wnid
    return prefix


def read_imagenet(files: FolderFiles | ZipFiles, prefix: str, group: str | None) -> Contents:
    """The items below a prefix; problems: also flat images without label, labels without image, damaged indices."""
    problems: list[str] = []
    found = sort_files(
        files,
        "image",
        top=prefix.rstrip("/"),
        is_class=WNID.fullmatch,
        label_loose=partial(_label_flat, files, prefix, problems),
    )
    contents = read_folders(files, found, group)
    contents.format = "imagenet"
    contents.problems += problems
    parts = Counter(item.part for item in contents.items)
    if parts["val"] and not parts["test"]:
        contents.items = [replace(item, part="test") if item.part == "val" else item for item in contents.items]
        contents.notes.append("val is the test part: the labels of ImageNet's test are not public")
    index = _find(files, INDICES)
    if index is None:
        contents.notes.append(f"no index of names ({', '.join(INDICES)}): classes are called by their wnid")
        return contents
    lines, names = _lines(files, index, contents.problems), {}
    if index.endswith(".json"):
        try:
            names = {wnid: text.replace("_", " ") for wnid, text in json.loads("\n".join(lines)).values()}
        except (ValueError, TypeError, AttributeError) as error:
            wrong = f'cannot be read ({error}); expected {{"0": ["n01440764", "tench"], ...}}'
            contents.problems.append(f"{index}: {wrong}")
    else:
        rows = [line.split(maxsplit=1) for line in lines]
        names = {row[0]: row[1].split(",")[0].strip() for row in rows if len(row) == 2 and WNID.fullmatch(row[0])}
    called = Counter(names.get(wnid, wnid) for wnid in contents.classes)
    labels = {}
    for wnid in contents.classes:  # names that two classes share get the wnid added
        name = names.get(wnid, wnid)
        labels[wnid] = name if called[name] == 1 else f"{name} ({wnid})"
    contents.classes = tuple(labels[wnid] for wnid in contents.classes)
    contents.items = [replace(item, label=labels[item.label]) for item in contents.items]
    unknown = [wnid for wnid in labels if wnid not in names]
    if names and unknown:
        contents.notes.append(f"{index} lacks a name for {some(unknown)}")
    return contents


def _label_flat(files, prefix, problems, loose: list[Example]) -> dict[str, str]:
    """Name -> wnid of the images that lie in val itself (or in val/images), by the table of their labels."""
    flat = [example.name for example in loose if example.part == "val"]
    if not flat:
        return {}
    folder = flat[0].removeprefix(prefix).split("/", 1)[0]
    stems = {name.rpartition("/")[2].rpartition(".")[0]: name for name in sorted(flat)}
    table = _find(files, TABLES)
    if table is None:
        problems.append(
            f"{folder}/: {count(len(flat), 'image')} outside of class folders; put {SOLUTION}, or {GROUND_TRUTH} and "
            f"{META}, next to the folder"
        )
        return {}
    labels = _read_labels(files, table, list(stems), problems)
    if labels:
        without = [name.removeprefix(prefix) for stem, name in stems.items() if stem not in labels]
        wrong = [stem for stem in stems if stem in labels and not WNID.fullmatch(labels[stem])]
        unused = sorted(labels.keys() - stems.keys())
        if without:
            problems.append(f"{table}: no label for {count(len(without), 'image')} ({some(without)}); add them")
        if wrong:
            first = f"{labels[wrong[0]]!r} for {wrong[0]}"
            problems.append(f"{table}: no wnid in {count(len(wrong), 'row')} ({first}); expected n01440764 or the like")
        if unused:
            problems.append(f"{folder}/: {count(len(unused), 'image')} of {table} missing ({some(unused)}); add them")
    return {stems[stem]: wnid for stem, wnid in labels.items() if stem in stems and WNID.fullmatch(wnid)}


def _find(files, names) -> str | None:
    """The first of these files, at the shortest path."""
    for wanted in names:
        found = [name for name in files.files if name.rpartition("/")[2] == wanted]
        if found:
            return min(found, key=lambda name: (name.count("/"), name))
    return None


def _read_labels(files, name, stems, problems):
    """Stem -> wnid by one of `TABLES`, the lines of the ground truth being in the order of the stems."""
    if name.endswith(SOLUTION):
        table = read_table(name, partial(files.read, name))
        problems += table.problems
        if table.columns and not {"ImageId", "PredictionString"} <= set(table.columns):
            problems.append(f"{name}: no columns ImageId and PredictionString among {', '.join(table.columns)}")
            return {}
        return {row["ImageId"]: (row["PredictionString"].split() or [""])[0] for _, row in table.rows}
    if name.endswith(ANNOTATIONS):
        rows = [line.split() for line in _lines(files, name, problems)]
        return {row[0].rpartition(".")[0]: row[1] for row in rows if len(row) > 1}
    labels = [line.strip() for line in _lines(files, name, problems)]
    if len(labels) != len(stems):
        problems.append(f"{name}: {count(len(labels), 'label')} for {count(len(stems), 'image')}; they must be as many")
        return {}
    if not all(label.isdigit() for label in labels):
        return dict(zip(stems, labels, strict=True))
    meta = _find(files, (META,))
    if meta is None:
        problems.append(
            f"{name}: holds ILSVRC2012_IDs, which are not in the order of the wnids; put {META} of the development "
            f"kit next to it, or use {SOLUTION}"
        )
        return {}
    from scipy.io import loadmat  # half a second to import, and needed here only

    try:
        synsets = loadmat(io.BytesIO(files.read(meta)), squeeze_me=True, variable_names=["synsets"])["synsets"]
        leaves = [row for row in synsets if int(row["num_children"]) == 0]  # the classes of the classification task
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
    # scipy raises nearly anything for a damaged file
    except Exception as error:
        problems.append(f"{meta}: cannot be read ({' '.join(str(error).split())}); take it from the kit again")
        return {}
    wrong = [i for i, label in enumerate(labels) if wnids and int(label) not in wnids]
    if wrong:
        first = f"{labels[wrong[0]]} in line {wrong[0] + 1}"
        problems.append(f"{name}: {count(len(wrong), 'label')} out of range ({first}); {META} has 1 to {len(wnids)}")
    return {stem: wnids[int(label)] for stem, label in zip(stems, labels, strict=True) if int(label) in wnids}


def _lines(files, name, problems):
    try:
        text = decode_text(files.read(name))
    except (UnreadableImage, ValueError) as error:
        problems.append(f"{name}: cannot be read ({error}); replace the file")
        return []
    return [line for line in text.splitlines() if line.strip()]


def read(files: FolderFiles | ZipFiles, group: str | None, labels: str) -> Contents | None:
    """The contents of files that are such folders; None where they are not."""
    prefix = find_imagenet(files)
    return None if prefix is None else read_imagenet(files, prefix, group)


FORMAT = Format(read, "ImageNet (train/n01440764/*, val/)")
