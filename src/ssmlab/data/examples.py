"""Which files are examples of a kind: no masks next to images, no thumbnails, no notes and licences among texts."""

from ssmlab.data import names as words
from ssmlab.data.contents import count, some
from ssmlab.data.files import Files, is_image
from ssmlab.data.images.decode import MODERN
from ssmlab.data.images.dicom import is_bare_dicom
from ssmlab.data.kinds import Kind, Sorted

TABLES = (".csv", ".tsv", ".json")


def choose_examples(files: Files, kind: str, rule: Kind, classed: bool, found: Sorted) -> tuple[list[str], list[str]]:
    """The examples, and the files of other kinds. What is no example goes into `found`, with a note."""
    pictures = kind in ("image", "mask", "scan")
    chosen: list[str] = []
    others: list[str] = []
    for name in files.files:
        ending = name.lower()
        if ending.endswith(rule.suffixes):
            chosen.append(name)
        elif ending.endswith(rule.unread):
            (others if kind == "text" and words.is_note(name, True) else found.unread).append(name)
        elif pictures and (is_image(files, name) or (kind == "image" and is_bare_dicom(files, name))):
            chosen.append(name)
        elif pictures and "." not in ending.rpartition("/")[2] and files.head(name)[4:12] in MODERN:
            found.unread.append(name)
        else:
            others.append(name)
    if kind == "text":
        notes = [name for name in chosen if words.is_note(name, classed)]
        texts = [name for name in chosen if name not in set(notes)]
        if not texts:  # newsgroups and mails have no suffix
            texts = [
                name for name in others if "." not in name.rpartition("/")[2] and b"\0" not in files.head(name, 64)
            ]
            others = [name for name in others if name not in set(texts)]
        if not texts:
            texts, notes = notes, []
        _leave_out(found, notes, rule.noun, "about the data")
        nested = [name for name in texts if "/" in name] if classed else []  # lists of files lie at the top
        ending = next((e for e in rule.suffixes if any(name.lower().endswith(e) for name in nested or texts)), "")
        own = [name for name in texts if name.lower().endswith(ending)]
        rest = {name for name in texts if not name.lower().endswith(ending)}
        rest |= {name for name in others if name.lower().endswith(TABLES)} if own else set()
        _leave_out(found, sorted(rest), "file", f"that {'is' if len(rest) == 1 else 'are'} no {ending or 'text'}")
        return own, [name for name in others if name not in rest]
    if pictures:
        small = _thumbnails(chosen)
        found.masks = _mask_files([name for name in chosen if name not in small]) if kind != "mask" else []
        _leave_out(found, sorted(small), rule.noun, "that are thumbnails")
        _leave_out(found, found.masks, "mask", "of the images next to them")
        gone = {*small, *found.masks}
        chosen = [name for name in chosen if name not in gone]
    return chosen, others


def _leave_out(found, names, noun, reason):
    if names:
        found.notes.append(f"left out: {count(len(names), noun)} {reason} ({some(names)})")


def _stems(names):
    """Folder -> stems of the files directly in it."""
    stems: dict[str, set[str]] = {}
    for name in names:
        stems.setdefault(name.rpartition("/")[0], set()).add(words.stem_of(name))
    return stems


def _thumbnails(chosen):
    """x_thumb.jpg next to x.jpg, and thumbs/x.jpg below x.jpg or next to images/x.jpg."""
    by_folder, small = _stems(chosen), set()
    for name in chosen:
        folder, stem = name.rpartition("/")[0], words.stem_of(name)
        original = words.image_of_thumbnail(stem)
        above, _, last = folder.rpartition("/")
        if original in by_folder[folder]:
            small.add(name)
        elif last.casefold() in words.THUMBNAIL_FOLDERS:
            near = [stems for at, stems in by_folder.items() if at == above or at.rpartition("/")[0] == above != folder]
            near = [stems for stems in near if stems is not by_folder[folder]]
            if any(stem in stems or original in stems for stems in near):
                small.add(name)
    return small


def _mask_files(chosen):
    """x_mask.png next to x.png, and a folder masks/ next to images/ that holds the masks of half of them."""
    by_folder, masks = _stems(chosen), []
    siblings: dict[str, list[str]] = {}
    for folder in by_folder:
        siblings.setdefault(folder.rpartition("/")[0], []).append(folder)
    of_masks = set()
    for folder, own in by_folder.items():
        above, _, last = folder.rpartition("/")
        part, rest = words.folder_meaning(last)
        if rest not in words.MASK_FOLDERS:
            continue
        stems = own | {words.image_of_mask(stem) for stem in own}
        for other in siblings[above]:
            images = by_folder[other] | {words.without(stem, words.IMAGE_SUFFIXES) for stem in by_folder[other]}
            other_part, other_rest = words.folder_meaning(other.rpartition("/")[2])
            of_images = other != folder and (other_rest in words.IMAGE_FOLDERS or (other_part and not other_rest))
            if of_images and other_part == part and 2 * len(stems & images) >= len(by_folder[other]):
                of_masks.add(folder)
    for name in chosen:
        folder = name.rpartition("/")[0]
        if folder in of_masks or words.image_of_mask(words.stem_of(name)) in by_folder[folder]:
            masks.append(name)
    return masks
