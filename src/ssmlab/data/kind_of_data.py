"""Which kind of data a path holds, and which task can be trained on it: what `ssmlab data check` looks at."""

from collections import Counter
from pathlib import Path

from ssmlab.data.conversations.reader import JSON, TABLES, is_conversations
from ssmlab.data.files import FolderFiles, ZipFiles, open_files
from ssmlab.data.kinds import KINDS
from ssmlab.data.masks.reader import has_masks
from ssmlab.data.names import is_note
from ssmlab.data.pairs.find import has_pairs
from ssmlab.data.parts import sort_files
from ssmlab.data.sequences.reader import FEWEST, labels_of
from ssmlab.data.text.documents import FIELD, PYDOC
from ssmlab.data.text.encoding import head_of_text

MOST_RECORDS = 50  # files of a folder that are looked into for conversations about images
ARCHIVES = (".zip", ".npz", ".tar", ".tar.gz", ".tgz")
SEQUENCES = ("audio", "dna", "chat", "text")  # in this order where there are as many: a text next to every sound


def kind_of_data(path: str, task: str = "") -> tuple[str, str]:
    """(task, kind) of a path by the files that most of it consists of.

    Args:
        task: of `TASKS` where the user says it.
    Returns:
        kind: "image", "mask", "pairs", "conversations", or one of `SEQUENCES`. Whatever is not clearly another kind
            counts as images, whose reader says what it expects.
    """
    place = Path(path).expanduser()
    files = open_files(place)
    looked = [place] if files is None and not task else []
    if isinstance(files, FolderFiles) and not task:  # tables of captions at the top, records one or two folders below
        names = [name for name in files.files if name.lower().endswith(JSON if "/" in name else (*JSON, *TABLES))]
        names = [name for name in names if name.count("/") < 2]
        looked = [files.at(name) for name in names[:MOST_RECORDS]]
    if task == "vision_language" or any(map(is_conversations, looked)):
        return "vision_language", "conversations"
    if task == "translate" or (not task and has_pairs(place, files)):
        return "translate", "pairs"
    kind = _kind_of(place, path, files)
    if task in ("classify", "segment"):
        return task, "image" if task == "classify" else "mask"
    if kind == "chat":  # lines of JSON hold messages or texts
        if files is not None:
            head = files.head(next(name for name in files.files if name.lower().endswith(".jsonl")), 1 << 16)
        else:
            with open(place, "rb") as file:
                head = file.read(1 << 16)
        first = next((line for line in head_of_text(head).split("\n") if line.strip()), "")
        if f'"{FIELD}"' in first and not any(f'"{key}"' in first for key in ("messages", "prompt")):
            kind = "text"
    if kind in SEQUENCES and (task or kind == "chat" or files is None):
        return task or "language", kind
    if kind in SEQUENCES and files is not None:
        sorted_files = sort_files(files, kind)
        examples = sorted_files.examples
        counts = Counter(example.label for example in examples)
        if len(counts) < 2 and kind in ("text", "audio", "dna"):
            labels = labels_of(sorted_files, files, kind)
            counts = Counter(row.label for row in labels.rows.values()) if labels else counts
            if labels and labels.unclear:
                return "classify_sequence", kind  # whose reader says what is not clear
        several = kind == "dna" or all(example.name.lower().endswith(".jsonl") for example in examples)
        fewest = 1 if several else FEWEST  # a file of FASTA or lines of JSON holds many sequences
        return "classify_sequence" if sum(n >= fewest for n in counts.values()) > 1 else "language", kind
    if task:
        return task, "text"  # its reader says that there are none
    if kind == "image" and has_masks(path):
        # Class folders of images with their masks next to them, as those of BUSI, are for classification
        images = sort_files(files, "image") if files is not None else None
        if images is None or len(images.classes) < 2 or not images.masks or images.problems:
            return "segment", "mask"
    return "classify", "image"


def _kind_of(place: Path, path: str, files: FolderFiles | ZipFiles | None) -> str:
    if path == PYDOC:
        return "text"
    if files is None:
        known = SEQUENCES if place.is_file() else ()
        return next((kind for kind in known if place.name.lower().endswith(KINDS[kind].suffixes)), "image")
    counts: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    for name in files.files:
        for kind in ("image", *SEQUENCES):
            rule = KINDS[kind]
            counts[kind] += name.lower().endswith(rule.suffixes + (rule.unread if kind == "image" else ()))
        ending = next((end for end in KINDS["text"].suffixes if name.lower().endswith(end)), "")
        texts[ending] += not is_note(name, True)
    only_notes = counts["text"] if counts["text"] == len(files.files) else 0
    counts["text"] = next((texts[end] for end in KINDS["text"].suffixes if texts[end]), only_notes)
    best = max(("image", *SEQUENCES), key=lambda kind: counts[kind])
    if best == "text" and any("/" not in name and name.lower().endswith(ARCHIVES) for name in files.files):
        return "image"  # texts about an archive; the reader of images looks into it
    if counts[best]:
        return best
    listed = sort_files(files, "text")
    return "text" if len(listed.classes) > 1 and not has_masks(path) else "image"  # newsgroups have no suffixes
