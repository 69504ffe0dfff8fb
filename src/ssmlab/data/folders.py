"""Class folders {train,Training}/{class}/*, likewise val and test, or only {class}/*; also in one zip.

The parts are called train/training, val/valid/validation and test/testing, in any case. Below a class folder
every depth belongs to the class. A folder that holds all the rest (the top folder of an archive) is passed
through. Ids are the paths below that point, so a zip has the ids, and the split, of the same tree unpacked.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ssmlab.data.contents import Contents, Item, count, some
from ssmlab.data.files import FilePictures, FolderFiles, ZipFiles, is_image
from ssmlab.data.tables import GROUP_TABLES, add_groups, read_table, tables_in

PART_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"} | {
    "test": "test",
    "testing": "test",
}


@dataclass
class Tree:
    """Where the class folders are: below `prefix`, in the folders of `parts` (folder -> part), if any.

    Attributes:
        listed: images that a table puts into a class -> the class folder they would lie in.
        is_class: whether a folder of this name is a class; others hold images outside of class folders.
    """

    prefix: str
    parts: dict[str, str]
    pictures: set[str]
    problems: list[str] = field(default_factory=list)
    listed: dict[str, str] = field(default_factory=dict)
    is_class: Callable[[str], object] = bool

    @property
    def depth(self) -> int:
        """How many folders lead from the prefix to an image, at least."""
        return 2 if self.parts else 1

    def part(self, name: str) -> str | None:
        return self.parts.get(name.split("/", 1)[0])

    def class_folder(self, name: str) -> str | None:
        """The class folder on the way to a file, or None where the file lies outside of all."""
        if name in self.listed:
            return self.listed[name]
        steps = name.split("/")
        if len(steps) <= self.depth or (self.parts and steps[0] not in self.parts):
            return None
        if not self.is_class(steps[self.depth - 1]):
            return None
        return "/".join(steps[: self.depth])


def find_tree(files: FolderFiles | ZipFiles) -> Tree | None:
    """The class folders among these files, or None where no folder holds a picture."""
    pictures = {name for name in files.files if is_image(files, name)}
    if not any("/" in name for name in pictures):
        return None
    prefix = ""
    while True:
        children = sorted(_children(files.folders, prefix))
        parts = {child: PART_NAMES[child.casefold()] for child in children if child.casefold() in PART_NAMES}
        is_top = len(children) == 1 and _children(files.folders, f"{prefix}{children[0]}/")
        if parts or not is_top or _children(pictures, prefix):
            break
        prefix += children[0] + "/"
    tree = Tree(prefix, parts, pictures)
    for part in set(parts.values()):
        same = [f"{folder}/" for folder, p in parts.items() if p == part]
        if len(same) > 1:
            tree.problems.append(f"{' and '.join(same)}: both mean the {part} part; keep one of them")
    for child in children if not parts else ():
        inner = _children(files.folders, f"{prefix}{child}/")
        if any(name.casefold() in PART_NAMES for name in inner):
            tree.problems.append(
                f"{prefix}{child}/: has parts of its own ({some(inner)}); give this folder as the path"
            )
    return tree


def _children(names, prefix):
    """What stands directly below a prefix ("" or "a/b/")."""
    return {name[len(prefix) :] for name in names if name.startswith(prefix) and "/" not in name[len(prefix) :]}


def read_folders(files: FolderFiles | ZipFiles, tree: Tree, group: str | None) -> Contents:
    """The items of a tree; problems: classes or parts without images, groups; notes: what is left out."""
    zipped = isinstance(files, ZipFiles)
    contents = Contents(
        name=files.path.stem if zipped else files.path.resolve().name,
        format="zip_folders" if zipped else "class_folders",
        classes=(),
        items=[],
        load=FilePictures(files),
        problems=files.problems + tree.problems,
    )
    others = []
    for name in _below(files.files, tree.prefix):
        folder = tree.class_folder(name)
        if folder and tree.prefix + name in tree.pictures:
            contents.items.append(Item(name, folder.rsplit("/", 1)[-1], tree.part(name), tree.prefix + name))
        else:
            others.append(name)
    _check_folders(contents, files, tree)
    _note_others(contents, tree, others)
    if group is not None and contents.items:
        contents.items, problems = add_groups(
            contents.items, group, _group_tables(files, tree.prefix), "beside the class folders"
        )
        contents.problems += problems
    return contents


def _below(names, prefix):
    return [name[len(prefix) :] for name in names if name.startswith(prefix)]


def _check_folders(contents, files, tree):
    """Name the classes, and report class folders and a validation folder without images."""
    filled = {tree.class_folder(item.id) for item in contents.items}
    # "x" is no file: it asks whether a file in this folder would belong to this very class folder
    folders = {name for name in _below(files.folders, tree.prefix) if tree.class_folder(name + "/x") == name}
    for folder in sorted(folders - filled):
        contents.problems.append(f"{folder}/: no images in this class folder; add images or delete the folder")
    contents.classes = tuple(sorted({folder.rsplit("/", 1)[-1] for folder in folders | filled}))
    for folder, part in tree.parts.items():
        if part == "val" and not any(item.part == "val" for item in contents.items):
            contents.problems.append(f"{folder}/: has no images; add some, or delete it to take validation from train")


def _note_others(contents, tree, others):
    loose = [name for name in others if tree.prefix + name in tree.pictures]
    if loose and not contents.items:
        contents.problems.append(f"{some(loose)}: outside of class folders; move each to <part>/<class>/")
    elif loose:
        contents.notes.append(f"left out: {count(len(loose), 'image')} outside of class folders ({some(loose)})")
    inside = [name for name in others if name not in loose and tree.class_folder(name)]
    if inside:
        contents.notes.append(f"left out: {count(len(inside), 'file')} of another kind ({some(inside)})")


def _group_tables(files, prefix):
    """groups.csv and metadata.csv among the files, or on disk beside an archive."""
    names = [name for name in GROUP_TABLES if prefix + name in files.files]
    tables = [read_table(name, partial(files.read, prefix + name)) for name in names]
    return tables + (tables_in(files.path.parent) if isinstance(files, ZipFiles) else [])
