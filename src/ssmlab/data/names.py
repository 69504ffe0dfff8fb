"""What names of folders and files say: part, fold, date, image or mask, no class, no example. The only such tables.

Which of these meanings holds in a data set depends on what lies next to a name: ssmlab.data.parts decides that.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

PART_WORDS = (
    dict.fromkeys(("train", "training", "trn"), "train")
    | dict.fromkeys(("val", "valid", "validation", "validate", "validating", "dev", "development"), "val")
    | dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "holdout"), "test")
)
# Words next to a part's that say nothing more: train_images, Data-Training, TEST SET, seg_test, train2017.
FILLERS = frozenset(
    [
        *("set", "sets", "data", "dataset", "split", "splits", "folder", "folders", "files", "list", "lists", "seg"),
        *("image", "images", "img", "imgs", "pic", "pics", "picture", "pictures", "photo", "photos", "samples"),
        *("text", "texts", "txt", "docs", "documents", "audio", "audios", "sound", "sounds", "wav", "wavs", "clips"),
        *("sequences", "seqs", "jpg", "jpeg", "png"),
    ]
)
IMAGE_FOLDERS = frozenset(
    [
        *("images", "image", "img", "imgs", "input", "inputs", "sat", "satellite", "scans", "photos"),
        *("original", "originals", "jpegimages"),
    ]
)
FIRM_MASK_FOLDERS = frozenset(
    [
        *("1st_manual", "manual", "manual1", "labels", "label", "groundtruth", "ground_truth", "gt", "av"),
        *(
            "annotations",
            "annotation",
            "annot",
            "targets",
            "target",
            "map",
            "maps",
            "segmentation",
            "segmentations",
            "seg",
        ),
        "segmentationclass",
    ]
)
MASK_FOLDERS = FIRM_MASK_FOLDERS | {"masks", "mask"}
MASK_SUFFIXES = (
    *("_masks", "_mask", "_manual1", "_manual", "_labels", "_label", "_groundtruth", "_ground_truth", "_gt"),
    *("_segmentation", "_seg", "_annotation", "_1stHO", "-mask", "-label", ".mask", " mask"),
)
MASK_PREFIXES = ("mask_", "masks_", "label_", "gt_", "mask-", "label-")
IMAGE_SUFFIXES = ("_training", "_test", "_image", "_img", "_sat", "-image")  # where images have masks
THUMBNAIL_FOLDERS = frozenset(("thumb", "thumbs", "thumbnail", "thumbnails"))
NO_CLASSES = frozenset(
    [
        *("unsup", "unsupervised", "unlabeled", "unlabelled", "unlabeled data", "unlabelled data"),
        *("background noise", "thumbnails"),
    ]
)
LABELLED = frozenset(("labeled", "labelled", "labeled data", "labelled data", "supervised"))  # next to unlabelled ones
# Folders below a class, whatever the classes are: sides and views of what is shown
VIEWS = frozenset(
    [
        *("left", "right", "front", "back", "rear", "side", "top", "bottom", "day", "night", "indoor", "outdoor"),
        *("axial", "coronal", "sagittal", "od", "os", "l", "r"),
    ]
)
NOTES = frozenset(
    [
        *("readme", "read me", "license", "licence", "copying", "changelog", "citation", "authors", "requirements"),
        *("urls", "url"),
    ]
)
NOTES_AMONG_CLASSES = NOTES | {"notes", "note", "source", "about"}
COMPRESSED = ("gz", "bz2", "xz")
_NUMBERED = re.compile(r"(?P<words>(?:.*[ _-])?(?P<word>[a-z]+?)s?)[ _-]*\d+")
_FOLDS = frozenset(("fold", "kfold", "cv", "cvfold", "split", "partition"))
_PORTIONS = frozenset(("batch", "chunk", "shard", "subset", "part", "portion", "session", "archive", "zip"))
_BEGINS = re.compile(rf"({'|'.join(PART_WORDS)})[\s_.-]", re.I)
_DATE = re.compile(r"(19|20)\d\d([-_. ]?\d\d){0,2}")
_THUMBNAIL = re.compile(r"^thumb(nail)?s?[ _.-](?P<a>.+)$|^(?P<b>.+?)(?:[ _.-]thumb(nail)?s?|-\d{2,4}x\d{2,4})$", re.I)
_GLUED = re.compile("(train|val|test)(annot|masks?|labels?)", re.I)  # CamVid's trainannot
_SAYS_MASK = re.compile("|".join(re.escape(end.strip("_-. ")) for end in (*MASK_SUFFIXES, *MASK_PREFIXES)), re.I)
_MASK_NUMBER = re.compile(r"(?<=[_-]mask)[ _-]?\d+$", re.I)


@lru_cache(maxsize=1 << 16)
def folder_meaning(step: str) -> tuple[str | None, str]:
    """The part that a name says, and the rest of the name: of Train-Masks "train" and "masks", of imagesTr "train" and
    "images". A name with the words of two parts, such as train_test_split, names none."""
    for spaced in (step, _GLUED.sub(r"\1 \2", step), re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", step)):
        words = [word for word in re.split(r"[\s_.\-()]+", spaced.casefold()) if word]
        found = {}
        for i, word in enumerate(words):
            if word in ("tr", "ts"):  # nnU-Net's imagesTr, labelsTs
                part = {"tr": "train", "ts": "test"}[word] if words[0] in ("images", "labels") else None
            else:
                word = re.sub(r"(?<=[a-z])\d+$", "", word)  # train2017, test1
                part = PART_WORDS.get(word) or PART_WORDS.get(re.sub("(set|sets|data|images|imgs)$", "", word))
            if part:
                found[i] = part
        if len(set(found.values())) == 1:
            at = next((i for i in (0, len(words) - 1) if i in found), None)
            if at is not None:
                return found[at], "_".join(words[:at] + words[at + 1 :])
    return None, "_".join(re.split(r"[\s_-]+", step.casefold()))


def parts_among(names: Iterable[str]) -> dict[str, str]:
    """Name -> part of those among siblings that are named after a part.

    That is a part's word with at most fillers, or names that share all but the word: 20news-bydate-train, -test; or all
    of several names that begin with one: train-clean-100, dev-clean, test-clean.
    """
    names = list(names)
    meant = {name: meaning for name in names if (meaning := folder_meaning(name))[0]}
    parts = {part for part, _ in meant.values()}
    if len(meant) == len(names) and "train" in parts and len(parts) > 1 and all(map(_BEGINS.match, names)):
        return {name: part for name, (part, _) in meant.items() if part}
    shared: dict[str, set[str | None]] = {}
    for part, rest in meant.values():
        shared.setdefault(rest, set()).add(part)
    return {
        name: part
        for name, (part, rest) in meant.items()
        if part and (len(shared[rest]) > 1 or all(w in FILLERS or w.isdigit() for w in rest.split("_") if w))
    }


def is_of_masks(name: str, siblings: Iterable[str]) -> bool:
    """Whether a part's folder holds the masks of another next to it: train_labels next to train or train_images."""
    part, rest = folder_meaning(name)
    images = {(part, ""), *((part, folder) for folder in IMAGE_FOLDERS)}
    return rest in MASK_FOLDERS and any(folder_meaning(other) in images for other in siblings)


def is_fold(name: str) -> bool:
    """Whether a folder is a fold of a cross-validation: fold1, fold_2, fold-3."""
    match = _NUMBERED.fullmatch(name.casefold())
    return bool(match and match["word"] in _FOLDS)


def is_portion(name: str) -> bool:
    """Whether a folder is a portion of a download and no class: batch_1, images_part_2, images_001."""
    match = _NUMBERED.fullmatch(name.casefold())
    if not match:
        return False
    return match["word"] in _PORTIONS or all(word in FILLERS for word in re.split("[ _-]+", match["words"]) if word)


def is_date(name: str) -> bool:
    """Whether a folder is named after a day."""
    return _DATE.fullmatch(name) is not None


def is_filler(name: str) -> bool:
    """Whether a folder of this name only holds what matters: images, data, train_set."""
    return all(word in FILLERS for word in folder_meaning(name)[1].split("_") if word)


def is_no_class(name: str) -> bool:
    """Whether a folder of this name holds no examples of a class: unlabelled ones, background noise, thumbnails."""
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip() in NO_CLASSES


def holds_labelled(name: str) -> bool:
    """Whether a folder holds the labelled examples, next to one of unlabelled ones."""
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip() in LABELLED


def is_note(name: str, classed: bool) -> bool:
    """README.txt, licence.txt, urls_pos.txt, and among class folders notes.txt: a text about the texts."""
    words = re.sub(r"[\s_-]+", " ", stem_of(name).casefold()).strip()
    return (
        words in (NOTES_AMONG_CLASSES if classed else NOTES)
        or words.startswith(("readme ", "license ", "licence ", "urls "))
        or words.endswith(" urls")
    )


def stem_of(name: str) -> str:
    """A file's name without folders and without its last suffix, of compressed files without the two last."""
    base = name.rpartition("/")[2]
    stem, _, ending = base.rpartition(".")
    if ending.lower() in COMPRESSED and "." in stem:
        stem = stem.rpartition(".")[0]
    return stem or base


def without(stem: str, suffixes: Iterable[str], prefixes: Iterable[str] = ()) -> str:
    """A stem without the first of these endings or beginnings that it has."""
    folded = stem.casefold()
    for suffix in suffixes:
        if folded.endswith(suffix.casefold()) and len(stem) > len(suffix):
            return stem[: -len(suffix)]
    for prefix in prefixes:
        if folded.startswith(prefix) and len(stem) > len(prefix):
            return stem[len(prefix) :]
    return stem


def image_of_mask(stem: str) -> str | None:
    """The stem of the image that a mask of this stem belongs to (x_mask, x_mask_1, mask_x), or None."""
    if not _SAYS_MASK.search(stem):  # a million names are looked at
        return None
    plain = _MASK_NUMBER.sub("", stem)
    base = without(plain, MASK_SUFFIXES, MASK_PREFIXES)
    return base if base != plain else None


def is_numbered_mask(stem: str) -> bool:
    """Whether a stem is that of one of several masks of an image: x_mask_1."""
    return _MASK_NUMBER.search(stem) is not None


def image_of_thumbnail(stem: str) -> str | None:
    """The stem of the picture that x_thumb, thumb_x and x-150x150 are small copies of, or None."""
    match = _THUMBNAIL.match(stem)
    return (match["a"] or match["b"]) if match else None
