"""Class folders of images, in a folder or in one zip: what `sort_files` found as labelled items.

Ids are the paths below the folder that holds all the rest, so a zip has the ids, and the split, of the same tree
unpacked.
"""

from functools import partial

from ssmlab.data.contents import Contents, Item, count, some
from ssmlab.data.files import FilePictures, FolderFiles, ZipFiles
from ssmlab.data.kinds import KINDS, VOLUMES, Sorted
from ssmlab.data.label_tables import ENDINGS, FOLDERS, only_hold_files, read_labels
from ssmlab.data.names import is_filler
from ssmlab.data.parts import parts_of
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
                example.name.removeprefix(found.prefix),
                example.label or "",
                example.part,
                example.name,
                example.group,
                example.group if found.folds else None,
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
    tables = [name for name in files.files if name.lower().endswith(ENDINGS) and name.count("/") <= 1]
    if tables and len(found.classes) == 1 and is_filler(found.classes[0]):
        contents.problems.append(
            f"{tables[0]}: no table of labels, no column of it names images that are here; expected a column of file "
            "names and one of classes"
        )
    if group is not None and contents.items:
        names = [name for name in GROUP_TABLES if found.prefix + name in files.files]
        groups = [read_table(name, partial(files.read, found.prefix + name)) for name in names]
        groups += tables_in(files.path.parent) if zipped else []  # those on disk next to an archive
        contents.items, problems = add_groups(contents.items, group, groups, "next to the class folders")
        contents.problems += problems
        contents.folds = ()
    return contents


def read_label_table(files: FolderFiles | ZipFiles, found: Sorted, group: str | None, column: str) -> Contents | None:
    """The items of images next to a table of their labels; None where no table says them, or class folders do.

    Args:
        column: of the classes, where the user names it; "table" where it is found; "folders": None is returned.
    """
    every = sorted(example.name for example in (*found.examples, *found.loose))
    labels = read_labels(files, every, column=column, group=group) if column != FOLDERS else None
    if labels is None:
        return None
    of_folder = {example.name: example.label for example in found.examples}
    clear = (
        len(found.classes) > 1
        and not found.problems
        and not ((labels.named or labels.problems) and only_hold_files(found.classes))
    )
    agree = all(of_folder.get(name) == row.label for name, row in labels.rows.items())
    if not column and clear and (not labels.named or (agree and not found.loose)):
        return None  # such as a table of patients
    if not column and clear and not agree and len(labels.rows.keys() & of_folder.keys()) == len(labels.rows):
        labels.problems = [
            f"folders ({some(found.classes)}) and {some(labels.tables)}, column {labels.column} "
            f"({some(labels.classes)}) say different classes; data.labels=table takes the table's, "
            "data.labels=folders the folders'"
        ]
    parts = dict(zip(every, parts_of(every), strict=True))
    by_folder = all(row.part is None for row in labels.rows.values()) and len({parts[n] for n in labels.rows}) > 1
    left = [name.removeprefix(found.prefix) for name in every if name not in labels.rows]
    notes = [note for note in found.notes if "outside of class folders" not in note and "cross-val" not in note]
    if left and labels.rows:
        notes.append(f"left out: {count(len(left), 'image')} in no table of labels ({some(left)})")
    return Contents(
        name=files.path.stem if isinstance(files, ZipFiles) else files.path.resolve().name,
        format="label_table",
        classes=labels.classes,
        items=[
            Item(
                name.removeprefix(found.prefix),
                row.label,
                parts[name] if by_folder else row.part,
                name,
                row.group,
                row.fold,
            )
            for name, row in sorted(labels.rows.items())
        ],
        load=FilePictures(files),
        problems=[*files.problems, *labels.problems],
        notes=[*labels.notes, *notes],
        warnings=[*labels.warnings, *(w for w in found.warnings if "differ only" not in w)],
        incomplete=bool(labels.problems),
        several=labels.several,
    )
