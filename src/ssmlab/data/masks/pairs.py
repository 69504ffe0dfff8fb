"""Which file is an image, which one is its mask: by folders' names, by files' suffixes, or as a recipe says.

folders   images | image | img ..., and masks | labels | groundtruth | 1st_manual ...; in any case and at any depth, its
          words apart by "_", "-" or a space
names     a_mask.png, mask_a.png, a_manual1.gif, a_labels.tif ... next to a.png or in a folder of masks; a_sat, img_a,
          a_training of images
parts     a folder train | val | test (or training, validation, testing) above or below them; train_images, train_masks
Massachusetts Roads   {train,val,test} and {train,val,test}_labels; also {train,val,test}_masks and so on
field of view   a folder `mask` next to another folder of masks (DRIVE), or fov | roi
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath

from ssmlab.data.contents import PARTS, Item, count, some
from ssmlab.data.files import Files, ZipFiles, is_image
from ssmlab.data.masks.shapes import GeneratedFiles
from ssmlab.data.masks.volumes import SUFFIXES
from ssmlab.data.names import (
    FIRM_MASK_FOLDERS,
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    MASK_FOLDERS,
    folder_meaning,
    image_of_mask,
    is_numbered_mask,
    without,
)
from ssmlab.data.parts import sort_files
from ssmlab.data.tables import GROUP_TABLES, add_groups, read_table

SECOND_FOLDERS = frozenset(("2nd_manual", "manual2"))  # another expert's opinion
SECOND_SUFFIXES = ("_2ndHO", "_manual2")
FOV_FOLDERS = frozenset(("fov", "fovs", "roi", "field_of_view"))
IMAGE_PREFIXES = ("image_", "img_", "image-", "img-")


@dataclass(frozen=True, slots=True)
class Case:
    """One image with its mask.

    Attributes:
        id: the image's path below the data's root. part: as published, or None.
        images: names of files, one for each channel; a picture of several channels is one.
        mask: the mask's name. view: that of the field of view, or None.
        group: the fold of a cross-validation that it is in, or None; a fold stays on one side of a split.
        more: further masks of the image, one for each object: what any of them marks is marked.
        channels: that each of its volumes holds.
    """

    id: str
    part: str | None
    images: tuple[str, ...]
    mask: str
    view: str | None = None
    group: str | None = None
    more: tuple[str, ...] = ()
    channels: int = 1


@dataclass(kw_only=True)
class MaskContents:
    """What a reader found.

    Attributes:
        format: mask_folders | massachusetts | nnunet.
        classes: names in the order of the label numbers, or empty where the data do not say.
        values: value in a mask -> label number, or empty where the data do not say; -1 is not counted.
        problems: what must be mended, by file name. notes: what the user should know.
    """

    name: str
    format: str
    cases: list[Case]
    classes: tuple[str, ...] = ()
    values: dict[int, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    role: str  # image | mask | view
    part: str | None
    group: str | None = None


def read_pairs(files: Files, images: str = "", masks: str = "", views: str = "") -> MaskContents | None:
    """Pair the pictures or volumes of a folder.

    Args:
        images, masks, views: folders below the root, where their names do not say what they hold.
    Returns:
        None where nothing is a mask.
    """
    contents = MaskContents(
        name=files.path.stem if isinstance(files, ZipFiles) else files.path.resolve().name,
        format="generated" if isinstance(files, GeneratedFiles) else "mask_folders",
        cases=[],
        problems=list(files.problems),
    )
    listed = sort_files(files, "mask", classed=False)
    contents.notes += [*listed.notes, *listed.warnings]
    if images or masks:
        found = []
        for role, folder in (("image", images), ("mask", masks), ("view", views)):
            inside = [e for e in listed.examples if folder and e.name.startswith(folder.strip("/") + "/")]
            if folder and not inside:
                contents.problems.append(f"{folder}/: no such folder of images below {contents.name}/")
            found += [_Found(e.name, role, e.part, e.group) for e in inside]
    else:
        # What is below <part> and <part>_labels of the folder (tiff before png) that has both
        tops: dict[str, list[_Found]] = {}
        for name in (example.name for example in listed.examples):
            steps = name.split("/")
            part, rest = folder_meaning(steps[-2]) if len(steps) > 1 else (None, "")
            if part and (not rest or rest in MASK_FOLDERS):
                tops.setdefault("/".join(steps[:-2]), []).append(_Found(name, "mask" if rest else "image", part))
        both = [top for top, inside in tops.items() if {item.role for item in inside} == {"image", "mask"}]
        best = max(both, key=lambda top: (top.casefold().endswith("tiff"), -len(top)), default=None)
        found = _by_name(listed.examples, contents) if best is None else tops[best]
        if best is not None and any(folder_meaning(item.name.split("/")[-2])[1] == "labels" for item in found):
            contents.format = "massachusetts"
    # an empty folder of masks means that all of them are missing
    empty = {folder_meaning(name.rpartition("/")[2])[1] for name in files.folders - _above(files.files)}
    if not any(item.role == "mask" for item in found) and empty.isdisjoint(MASK_FOLDERS):
        return None
    _pair(found, contents)
    return contents


def _above(names):
    """All folders on the way to these files."""
    return {"/".join(name.split("/")[:depth]) for name in names for depth in range(1, name.count("/") + 1)}


def folders_of_pictures(files: Files) -> set[str]:
    """Folders that hold images or volumes at some depth, and those that hold nothing: annotations may also be boxes."""
    listed = sort_files(files, "mask", classed=False)
    return _above(example.name for example in listed.examples) | (files.folders - _above(files.files))


def _by_name(examples, contents):
    folders = {step for example in examples for step in _folders(example.name)}
    second = {
        example.name
        for example in examples
        if not SECOND_FOLDERS.isdisjoint(_folders(example.name))
        or without(_stem(example.name), SECOND_SUFFIXES) != _stem(example.name)
    }
    if second:
        contents.notes.append(f"left out: {count(len(second), 'mask')} by a second expert")
    firm = bool(folders & FIRM_MASK_FOLDERS)  # then `mask` is the field of view
    sorted_by_folder = bool(folders & MASK_FOLDERS and folders & IMAGE_FOLDERS)
    role_of = dict.fromkeys(IMAGE_FOLDERS, "image") | dict.fromkeys(MASK_FOLDERS, "mask")
    role_of |= dict.fromkeys(FOV_FOLDERS, "view") | (dict.fromkeys(("mask", "masks"), "view") if firm else {})
    found, others = [], []
    for name, example in ((example.name, example) for example in examples if example.name not in second):
        role = next((role_of[step] for step in reversed(_folders(name)) if step in role_of), None)
        if role is None and not sorted_by_folder:
            role = "mask" if named_as_mask(name) else "image"
        if role:
            found.append(_Found(name, role, example.part, example.group))
        else:
            others.append(name)
    if others and any(item.role == "mask" for item in found):
        contents.notes.append(f"left out: {count(len(others), 'picture')} outside of these folders ({some(others)})")
    return found


def _folders(name):
    return [folder_meaning(step)[1] for step in name.split("/")[:-1]]


def named_as_mask(name: str) -> bool:
    """Whether a file's own name says that it is a mask: a_mask.png, mask_a.png, a_mask_1.png."""
    return image_of_mask(_stem(name)) is not None


def beside_images(files: Files) -> bool:
    """Whether half of the pictures have a mask next to them in their folder."""
    pictures = [name for name in files.files if is_image(files, name)]
    masks = [name for name in pictures if named_as_mask(name)]
    images = {(name.rpartition("/")[0], _plain(_stem(name))) for name in pictures if not named_as_mask(name)}
    return bool(masks) and 2 * len(images & {(n.rpartition("/")[0], _plain(_stem(n))) for n in masks}) >= len(images)


def _place(name):
    """The folders that an image and its mask share: a/fold1 of a/fold1/images/x.png."""
    steps = name.split("/")[:-1]
    roles = IMAGE_FOLDERS | MASK_FOLDERS | FOV_FOLDERS | SECOND_FOLDERS
    return tuple(step for step in steps if folder_meaning(step)[1] not in roles)


def _stem(name):
    name = PurePosixPath(name).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return PurePosixPath(name).stem


def _plain(stem):
    """A stem without what tells an image from its mask: 21_training, 21_manual1 and 21_training_mask are 21."""
    return without(image_of_mask(stem) or stem, IMAGE_SUFFIXES, IMAGE_PREFIXES)


def _pair(found, contents):
    unmasked: dict[str | None, list[str]] = {}
    fold_of = {item.name: item.group for item in found}
    for part in dict.fromkeys(item.part for item in found):
        of_part = [item for item in found if item.part == part]
        images, masks, views = ([i.name for i in of_part if i.role == role] for role in ("image", "mask", "view"))
        if part == "test" and images and not masks:
            contents.notes.append(f"left out: {count(len(images), 'image')} of test, which has no masks")
            continue
        masks, more, known = _gathered(images, masks)
        if more:
            objects = [image for image in images if image in known] or list(more)
            contents.notes.append(
                f"{count(len(more), 'image')} with a mask for each object, which are put together ({some(objects)})"
            )
        mask_of, lonely = _match([image for image in images if image not in known], masks, "mask", contents.problems)
        mask_of |= known
        view_of, _ = _match(images, views, "field of view", contents.problems)
        contents.cases += [
            Case(
                image,
                part,
                (image,),
                mask_of[image],
                view_of.get(image),
                fold_of[image],
                more.get(mask_of[image], ()),
            )
            for image in images
            if image in mask_of
        ]
        unmasked[part] = [image for image in images if image not in mask_of]
        contents.problems += [f"{name}: a mask without an image; add the image, or remove it" for name in lonely]
        if views:
            contents.problems += [
                f"{name}: has no field of view, as others have" for name in images if name not in view_of
            ]
    for part in (*PARTS, None):
        contents.problems += [
            f"{name}: an image without a mask; add one, or remove it" for name in unmasked.get(part, ())
        ]


def _gathered(images, masks):
    """Masks of one image, one for each object: x_mask.png and x_mask_1.png, or all in the folder of a single image.

    Returns:
        the masks that are left to match; the first of those together -> the others; image -> the first of its masks.
    """
    numbered: dict[tuple[str, str | None], list[str]] = {}
    for name in masks:
        numbered.setdefault((name.rpartition("/")[0], image_of_mask(_stem(name))), []).append(name)
    more = {}
    for (_, image), same in numbered.items():
        if image and len(same) > 1 and any(is_numbered_mask(_stem(name)) for name in same):
            more[same[0]] = tuple(same[1:])
    places: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    for at, names in enumerate((images, masks)):
        for name in names:
            places.setdefault(_place(name), ([], []))[at].append(name)
    known = {}
    for place, (own, objects) in places.items():
        if len(own) == 1 and len(objects) > 1 and place[-1:] == (_stem(own[0]),):  # <id>/images/<id>.png
            known[own[0]] = objects[0]
            more[objects[0]] = tuple(objects[1:])
    gone = {name for names in more.values() for name in names} | set(known.values())
    return [name for name in masks if name not in gone], more, known


def _match(images, others, what, problems):
    """The mask of every image: of the same stem, else of the same stem without known suffixes, in the same place before
    any other; and masks left over."""
    matched: dict[str, str] = {}
    left = list(others)
    stems = (_stem, lambda name: _plain(_stem(name)))
    for key in (*((lambda name, stem=stem: (_place(name), stem(name))) for stem in stems), *stems):
        open_images = [name for name in images if name not in matched]
        by_key: dict[str, list[str]] = {}
        for name in left:
            by_key.setdefault(key(name), []).append(name)
        named: dict[str, list[str]] = {}
        for image in open_images:
            named.setdefault(key(image), []).append(image)
        for stem, same in named.items():
            candidates = by_key.get(stem, [])
            if candidates and (len(same) > 1 or len(candidates) > 1):
                problems.append(
                    f"{' and '.join(same)}: {'they share' if len(same) > 1 else 'has'} "
                    f"{count(len(candidates), what)} ({some(candidates)}); one each is expected"
                )
            for image, candidate in zip(same, candidates, strict=False):
                matched[image] = candidate
            left = [name for name in left if name not in candidates]
    return matched, left


def add_case_groups(contents: MaskContents, files: Files, column: str) -> None:
    """Give every case the group that a column of groups.csv or metadata.csv names for its image."""
    tables = [read_table(name, partial(files.read, name)) for name in GROUP_TABLES if name in files.files]
    items = [Item(case.id, "", case.part, None) for case in contents.cases]
    items, problems = add_groups(items, column, tables, "next to the folders of images")
    contents.cases = [replace(case, group=item.group) for case, item in zip(contents.cases, items, strict=True)]
    contents.problems += problems
