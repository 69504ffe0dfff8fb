"""Class folders of images, in a folder or in one zip: what `sort_files` found as labelled items.

Ids are the paths below the folder that holds all the rest, so a zip has the ids, and the split, of the same tree
unpacked.
"""

from functools import partial

from ssmlab.data.contents import Contents, Item, count, some
from ssmlab.data.files import FilePictures, FolderFiles, ZipFiles
from ssmlab.data.kinds import KINDS, VOLUMES, Sorted
from ssmlab.data.names import is_filler
from ssmlab.data.tables import GROUP_TABLES, add_groups, read_table, tables_in

VOLUME_FILES = (*VOLUMES, *KINDS["volume"].unread)


def read_folders(files: FolderFiles | ZipFiles, found: Sorted, group: str | None) -> Contents:
    """The items of class folders; problems: classes or parts without images, masks without classes, groups."""
    zipped = isinstance(files, ZipFiles)
    contents = Contents(
        name=files.path.stem if zipped else files.path.resolve().name,
        format="zip_folders" if zipped else "class_folders",
        classes=tuple(found.classes),
        items=[
            Item(
                example.name.removeprefix(found.prefix), example.label or "", example.part, example.name, example.group
            )
            for example in found.examples
        ],
        load=FilePictures(files),
        problems=list(found.problems),
        notes=list(found.notes),
        warnings=list(found.warnings),
        folds=tuple(found.folds),
    )
    if found.masks and len(found.classes) < 2:
        contents.problems = [
            f"images with masks ({some(found.masks)}) and no classes: this is a set for segmentation; give it to a "
            "recipe whose task is segment"
        ]
        contents.incomplete = True
    elif found.unread and not found.examples and all(name.lower().endswith(VOLUME_FILES) for name in found.unread):
        contents.problems = [
            f"class folders of volumes ({some(found.unread)}): classification reads pictures; save slices as PNG, or "
            "give NIfTI volumes with masks to a recipe whose task is segment"
        ]
        contents.incomplete = True
    elif found.unread and not found.examples:
        contents.problems = [
            f"{count(len(found.unread), 'file')} of formats that are not read ({some(found.unread)}) and no other "
            "images; convert them to JPEG or PNG"
        ]
        contents.incomplete = True
    tables = [name for name in files.files if name.lower().endswith(".csv") and name.count("/") <= 1]
    if tables and len(found.classes) == 1 and is_filler(found.classes[0]):
        contents.problems.append(
            f"{tables[0]}: no table of labels in MHIST's form, the only one that is read (the columns Image Name, "
            "Majority Vote Label and Partition, separated by commas, semicolons or tabs)"
        )
    if group is not None and contents.items:
        contents.items, problems = add_groups(
            contents.items, group, _group_tables(files, found.prefix), "next to the class folders"
        )
        contents.problems += problems
        contents.folds = ()
    return contents


def _group_tables(files, prefix):
    """groups.csv and metadata.csv among the files, or on disk next to an archive."""
    names = [name for name in GROUP_TABLES if prefix + name in files.files]
    tables = [read_table(name, partial(files.read, prefix + name)) for name in names]
    return tables + (tables_in(files.path.parent) if isinstance(files, ZipFiles) else [])
