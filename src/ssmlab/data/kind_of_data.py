"""Which kind of data a path holds, and which task can be trained on it: what `ssmlab data check` looks at."""

from collections import Counter
from pathlib import Path

from ssmlab.data.files import FolderFiles
from ssmlab.data.kinds import KINDS
from ssmlab.data.masks.reader import has_masks
from ssmlab.data.parts import sort_files
from ssmlab.data.sequences.reader import FEWEST
from ssmlab.data.text.documents import FIELD, PYDOC
from ssmlab.data.text.encoding import head_of_text

TASKS = ("classify", "segment", "classify_sequence", "language")
SEQUENCES = ("audio", "dna", "chat", "text")  # in this order where there are as many: a text next to every sound


def kind_of_data(path: str, task: str = "") -> tuple[str, str]:
    """(task, kind) of a path by the files that most of it consists of.

    Args:
        task: of `TASKS` where the user says it.
    Returns:
        kind: "image", "mask", or one of `SEQUENCES`. Whatever is not clearly a sequence counts as images, whose reader
            says what it expects.
    """
    kind = _kind_of(Path(path).expanduser(), path)
    if task in ("classify", "segment"):
        return task, "image" if task == "classify" else "mask"
    if kind == "chat" and not _are_chats(Path(path).expanduser()):
        kind = "text"
    if kind in SEQUENCES:
        return task or _task_of(Path(path).expanduser(), kind), kind
    if task:
        return task, "text"  # its reader says that there are none
    if kind == "image" and has_masks(path) and not _has_classes(path):
        return "segment", "mask"
    return "classify", "image"


def _are_chats(place):
    """Whether lines of JSON hold messages; else they hold texts."""
    files = sorted(place.rglob("*.jsonl")) if place.is_dir() else [place]
    with open(files[0], "rb") as file:
        head = head_of_text(file.read(1 << 16))
    first = next((line for line in head.split("\n") if line.strip()), "")
    return f'"{FIELD}"' not in first or any(f'"{key}"' in first for key in ("messages", "prompt"))


def _kind_of(place, path):
    if path == PYDOC:
        return "text"
    if place.is_file():
        return next((kind for kind in SEQUENCES if place.name.lower().endswith(KINDS[kind].suffixes)), "image")
    if not place.is_dir():
        return "image"
    counts: Counter[str] = Counter()
    for name in FolderFiles(place).files:
        for kind in ("image", *SEQUENCES):
            rule = KINDS[kind]
            counts[kind] += name.lower().endswith(rule.suffixes + (rule.unread if kind == "image" else ()))
    best = max(("image", *SEQUENCES), key=lambda kind: counts[kind])
    if counts[best]:
        return best
    listed = sort_files(FolderFiles(place), "text")
    return "text" if len(listed.classes) > 1 and not has_masks(path) else "image"  # newsgroups have no suffixes


def _task_of(place, kind):
    if kind == "chat" or not place.is_dir():
        return "language"
    counts = Counter(example.label for example in sort_files(FolderFiles(place), kind).examples)
    fewest = 1 if kind == "dna" else FEWEST  # a FASTA file holds many sequences
    return "classify_sequence" if sum(n >= fewest for n in counts.values()) > 1 else "language"


def _has_classes(path):
    """Whether class folders hold images with their masks next to them, as those of BUSI do."""
    place = Path(path).expanduser()
    found = sort_files(FolderFiles(place), "image") if place.is_dir() else None
    return found is not None and len(found.classes) > 1 and bool(found.masks) and not found.problems
