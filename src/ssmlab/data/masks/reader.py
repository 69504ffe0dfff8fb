"""`open_masks`: images with masks, in folders, a zip, Massachusetts' or nnU-Net's layout, as three checked parts.

Everything that is wrong is found before anything runs, and reported at once by file name: files that cannot be read,
images without masks, masks without images, sizes that differ, values that stand for no class.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.check import conversions
from ssmlab.data.contents import PARTS, count, did_you_mean, some
from ssmlab.data.files import Files, FolderFiles, ZipFiles
from ssmlab.data.images.decode import Progress
from ssmlab.data.leaks import Keys, leaks
from ssmlab.data.masks.medsegbench import label_arrays, read_medsegbench
from ssmlab.data.masks.nnunet import is_nnunet, read_nnunet
from ssmlab.data.masks.pairs import (
    Case,
    MaskContents,
    add_case_groups,
    beside_images,
    folders_of_pictures,
    read_pairs,
)
from ssmlab.data.masks.shapes import GENERATED, GeneratedFiles
from ssmlab.data.masks.store import Checked, MaskStore, Sample, unlike
from ssmlab.data.masks.values import Rule, decide
from ssmlab.data.masks.volumes import is_volume, require_nibabel, target_spacing
from ssmlab.data.names import IMAGE_FOLDERS, MASK_FOLDERS, folder_meaning
from ssmlab.data.splits import TEST_FRACTION, about_split, held_out, split_hash

ACCEPTED = (
    "folders of images and of masks (images/ and masks/, groundtruth/, labels/ ...), masks next to images (a.png and "
    "a_mask.png), Massachusetts Roads (tiff/train and tiff/train_labels), nnU-Net's raw layout (imagesTr, labelsTr, "
    "dataset.json), a zip of such folders, a MedSegBench .npz, or the generated sets: shapes, cells"
)


@dataclass(frozen=True, eq=False)
class MaskSplit:
    """One part: images with their labels, read on first use and kept while memory lasts.

    Attributes:
        ids: stable names, the image's path below the data's root.
        named: whether a column or a pattern names the groups.
    """

    name: str
    ids: list[str]
    _cases: list[Case] = field(repr=False)
    _store: MaskStore = field(repr=False)
    named: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def groups(self) -> list[str] | None:
        """The group of every image, such as its patient; None where nothing names them."""
        return [case.group or "" for case in self._cases] if self.named else None

    @property
    def folds(self) -> list[str] | None:
        """The published fold of every image; None where there are none."""
        found = [case.group or "" for case in self._cases]
        return found if any(found) and not self.named else None

    def sample(self, i: int) -> Sample:
        """Image (c, *spatial), labels (*spatial) uint8 with 255 where nothing is counted, spacing. Raises DataError."""
        return self._store.sample(self._cases[i])

    def take(self, positions) -> "MaskSplit":
        """The split with the cases at these positions only."""
        chosen = [self._cases[i] for i in positions]
        return replace(self, ids=[case.id for case in chosen], _cases=chosen)

    def joined(self, *others: "MaskSplit") -> "MaskSplit":
        """The cases of several parts of one data set."""
        every = [case for split in (self, *others) for case in split._cases]
        return replace(self, name="all", ids=[case.id for case in every], _cases=every)


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskData:
    """Images with masks in three parts.

    Attributes:
        format: mask_folders | massachusetts | nnunet | generated.
        classes: names in the order of the labels; the first is the background.
        channels, dimensions: of every image; 2 or 3 dimensions.
        sizes: (smallest, median, largest) of each axis, in pixels.
        spacing: of each axis, one for the whole set (see `target_spacing`); 1 where images do not say.
        measured: whether the images say how far their pixels are apart, in millimetres: NIfTI.
        directions: towards where x, y, z of all volumes rise, such as "RAS", also of those stored otherwise; "" where
            files do not say.
        numbers: what stands for each class in a mask, where that is not just 0, 1 ...
        usual: the median size that the images have at that spacing.
        shares: the share of every class in the counted pixels of train.
        copies: how much of val and test is in an earlier part, see ssmlab.data.leaks.
        problems: empty unless opened with strict=False.
    """

    name: str
    format: str
    path: str
    classes: tuple[str, ...]
    channels: int
    dimensions: int
    sizes: list[tuple[int, int, int]]
    spacing: tuple[float, ...]
    measured: bool
    usual: tuple[int, ...]
    directions: str
    numbers: tuple[int, ...]
    shares: tuple[float, ...]
    train: MaskSplit
    val: MaskSplit
    test: MaskSplit
    split_hash: str
    copies: dict[str, dict[str, int]]
    notes: list[str]
    problems: list[str]


def open_masks(
    path: str | Path,
    *,
    images: str = "",
    masks: str = "",
    views: str = "",
    group: str = "",
    classes: tuple[str, ...] = (),
    colours: dict[str, object] | None = None,
    values: str = "auto",
    ignore: int | str = "auto",
    val_fraction: float = 0.1,
    test_fraction: float = TEST_FRACTION,
    seed: int = 0,
    divide: bool = True,
    skip_unreadable: bool = False,
    strict: bool = True,
    progress: Progress | None = None,
) -> MaskData:
    """Open images with masks, and look at every one of them once.

    The parts are those published. Without a test part `test_fraction` of what is there becomes one, with seed 0, and of
    the rest `val_fraction` with `seed`, chosen by the hash of their names.

    Args:
        path: see `ACCEPTED`.
        images, masks, views: folders below the path, where their names do not say what they hold.
        group: a column of groups.csv or metadata.csv whose images stay on one side, or a pattern of their names.
        classes: names in the order of the labels; two classes where not given and the data do not say.
        colours: class -> grey value, or colour as "#rrggbb" or [r, g, b]; "ignore" for what is not counted.
        values, ignore: what numbers mean and which one is not counted, where nothing says it; see `values.decide`.
        divide: False takes no part from data that lack one. skip_unreadable: leave images out that cannot be read,
            or whose masks cannot be, with a note each.
        strict: False leaves what is wrong in `.problems`, as far as the data can be opened at all.
    Raises:
        DataError: with every problem, by file name.
    """
    contents, store, checked = _looked_at(path, images, masks, views, progress, group)
    lost = [c for c in checked if c.unreadable and skip_unreadable]
    contents.notes += [f"left out, since data.skip_unreadable: {problem}" for c in lost for problem in c.problems]
    checked = [c for c in checked if not (c.unreadable and skip_unreadable)]
    names, table = _meaning(contents, classes, colours or {})
    seen = [c.values for c in checked if c.values is not None]
    rule, unknown, notes = decide(seen, names, table, values=values, ignore=ignore)
    store.rule = rule
    problems = [*contents.problems, *(p for c in checked for p in c.problems), *unknown, *unlike(checked)]
    good = [c for c in checked if not c.problems]
    parts = _divide(contents, [c.case for c in good], divide * val_fraction, divide * test_fraction, seed, problems)
    if strict and problems:
        raise DataError(f"{path}: {count(len(problems), 'problem')} in the data", problems)
    part_of = {case.id: part for part, cases in parts.items() for case in cases}
    copies, _ = leaks(((part_of[c.id], c.id, Keys(c.digest.encode(), c.digest.encode())) for c in good), "images")
    splits: dict[str, Any] = {p: MaskSplit(p, [c.id for c in own], own, store, bool(group)) for p, own in parts.items()}
    return MaskData(
        name=contents.name, format=contents.format, path=str(path), classes=rule.classes, **vars(_measures(good)),
        directions=store.directions, numbers=rule.numbers, **splits, copies=copies, problems=problems,
        shares=_shares(splits["train"], rule) if not problems else (),
        split_hash=split_hash({part: split.ids for part, split in splits.items()}),
        notes=[*contents.notes, *notes, *_notes(good, part_of)],
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What a network's sizes depend on; see `MaskData`."""

    channels: int = 0
    dimensions: int = 0
    sizes: list[tuple[int, int, int]] = field(default_factory=list)
    spacing: tuple[float, ...] = ()
    measured: bool = False
    usual: tuple[int, ...] = ()


def measure_masks(
    path: str | Path, *, images: str = "", masks: str = "", views: str = "", progress: Progress | None = None
) -> tuple[Measures, tuple[str, ...], int]:
    """Look at every image and mask once.

    Returns:
        sizes, the classes' names (none where nothing says what the masks' values mean), and the number of images.
    Raises:
        DataError: with every problem, by file name.
    """
    contents, _, checked = _looked_at(path, images, masks, views, progress)
    problems = [*contents.problems, *(p for c in checked for p in c.problems), *unlike(checked)]
    if problems:
        raise DataError(f"{path}: {count(len(problems), 'problem')} in the data", problems)
    rule, unknown, _ = decide([c.values for c in checked if c.values is not None], contents.classes, contents.values)
    return _measures(checked), () if unknown else rule.classes, len(checked)


def _looked_at(path, images, masks, views, progress, group="") -> tuple[MaskContents, MaskStore, list[Checked]]:
    contents, files = _read(Path(path).expanduser(), images, masks, views)
    if group:
        add_case_groups(contents, files, group)
    store = MaskStore(files)
    checked = store.check(contents.cases, progress)
    known = Counter(c.directions for c in checked if c.directions)
    if len(known) > 1:  # the order is that of the counts, then of the names: the same on every machine
        store.directions = min(known, key=lambda directions: (-known[directions], directions))
        others = [c.id for c in checked if c.directions not in ("", store.directions)]
        contents.notes.append(
            f"{count(len(others), 'volume')} turned to {store.directions}, as the others are ({some(others)})"
        )
        unknown = [c.id for c in checked if not c.directions and len(c.size) == 3]
        if unknown:
            contents.notes.append(f"{count(len(unknown), 'volume')} without directions, as stored ({some(unknown)})")
    for c in checked:
        c.turn(store.directions)
    store.directions = store.directions or next(iter(known), "")
    return contents, store, checked


def _notes(checked: list[Checked], part_of: dict[str, str]) -> list[str]:
    """How files were read, where something of them is not used or not known, and equal images in different parts."""
    notes = conversions([c for c in checked if c.mode])
    stacks = [c for c in checked if c.pages]
    if stacks:
        numbers = sorted({c.pages for c in stacks})
        slices = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        notes.append(
            f"{count(len(stacks), 'TIFF stack')} read as volumes of {slices} pages; how far slices and pixels lie "
            f"apart is not known and counts as 1 ({some(c.id for c in stacks)})"
        )
    dark = [c.id for c in checked if c.dark]
    if dark:
        notes.append(
            f"{count(len(dark), 'image')} of 16 bits below a sixteenth of the range, nearly black after conversion; "
            f"scale the values to 0..65535 ({some(dark)})"
        )
    same: dict[str, list[Checked]] = {}
    for c in checked:
        same.setdefault(c.digest, []).append(c)
    return notes + [  # a test on what was trained with says nothing
        "equal images in different parts: " + " = ".join(f"{part_of[c.case.id]}: {c.case.id}" for c in found)
        for found in same.values()
        if len({part_of[c.case.id] for c in found}) > 1
    ]


def _read(path: Path, images, masks, views) -> tuple[MaskContents, Files]:
    if str(path) in GENERATED:
        generated = GeneratedFiles(str(path))
        contents = read_pairs(generated)
        assert contents is not None
        return contents, generated
    files: FolderFiles | ZipFiles
    if path.is_dir():
        files = FolderFiles(path)
    elif (arrays := read_medsegbench(path)) is not None:
        return arrays
    elif path.is_file() and path.suffix.lower() == ".zip":
        files = ZipFiles(path)
    elif path.exists():
        raise DataError(f"{path}: not images with masks in a known layout; expected {ACCEPTED}")
    else:
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file or folder{did_you_mean(path.name, near)}; expected {ACCEPTED}")
    prefix = None if images or masks else is_nnunet(files)
    contents = read_pairs(files, images, masks, views) if prefix is None else read_nnunet(files, prefix)
    unpaired = contents is None or contents.problems
    if prefix is None and unpaired and any(name.endswith("imagesTr") for name in files.folders):
        raise DataError(f"{path}: imagesTr without dataset.json next to it, which says what the labels are; add it")
    if contents is None or not (contents.cases or contents.problems):
        found = some(sorted({name.split("/", 1)[0] for name in (*files.files, *files.folders)})) or "nothing"
        raise DataError(
            f"{path}: no images with masks in a known layout, found {found}; expected {ACCEPTED}; or name the folders "
            "with data.images=... data.masks=..."
        )
    if any(is_volume(name) for case in contents.cases for name in (*case.images, case.mask)):
        require_nibabel()
    return contents, files


def _meaning(contents, classes, colours):
    """Names of the classes and the table of values: as the user says, else as the data say, else neither."""
    if not colours:
        if contents.values and classes and len(classes) != len(contents.classes):
            raise DataError(f"data.classes names {len(classes)} classes, dataset.json {len(contents.classes)}")
        return classes or contents.classes, contents.values
    names = classes or tuple(name for name in colours if name != "ignore")
    strange = [name for name in (*colours, *names) if (name not in names and name != "ignore") or name not in colours]
    if strange:
        raise DataError(
            f"data.classes and data.colours must name the same classes; {some(strange)} are in one of them only"
        )
    table = {}
    for name, value in colours.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            try:
                hexadecimal = isinstance(value, str)
                parts = tuple(bytes.fromhex(value.removeprefix("#"))) if hexadecimal else tuple(map(int, value))
            except (TypeError, ValueError):
                parts = ()
            if len(parts) != 3 or not all(0 <= part <= 255 for part in parts):
                raise DataError(f'data.colours.{name} is {value!r}; expected a grey value, "#rrggbb" or [r, g, b]')
            value = parts
        table[value] = names.index(name) if name in names else -1
    if len(table) != len(colours):
        raise DataError(f"data.colours gives two classes the same value: {colours}")
    if any(isinstance(value, tuple) for value in table):  # grey values among colours
        table = {value if isinstance(value, tuple) else (value,) * 3: label for value, label in table.items()}
    return names, table


def _divide(contents, cases, val_fraction, test_fraction, seed, problems) -> dict[str, list[Case]]:
    """The three parts; says in the notes which were published and which taken."""
    parts = {part: [case for case in cases if case.part == part] for part in PARTS}
    parts["train"] += [case for case in cases if case.part is None]
    if not parts["test"] and test_fraction:
        parts["train"], parts["test"] = _take(contents, parts["train"], test_fraction, 0, "test", problems)
    if not parts["val"] and val_fraction:
        parts["train"], parts["val"] = _take(contents, parts["train"], val_fraction, seed, "val", problems)
    return parts


def _take(contents, cases, fraction, seed, part, problems):
    ids, labels, groups = [case.id for case in cases], [0] * len(cases), [case.group or case.id for case in cases]
    chosen, whole = held_out(ids, labels, groups, fraction=fraction, seed=seed, part=part), groups != ids
    if not chosen:  # one fold is left
        whole, chosen = False, held_out(ids, labels, fraction=fraction, seed=seed, part=part)
    if not chosen and not problems:
        problems.append(f"{part}: no images can be spared for it; add images, or a folder {part}/")
    of = "train" if part == "val" else "all"
    said = {"fraction": fraction, "whole": "group" if whole else "", "how": f"seed {seed}"}
    contents.notes.append(about_split(part, of, len(chosen), len(cases), "images", **said))
    rest = [case for i, case in enumerate(cases) if i not in chosen]
    return rest, [case for i, case in enumerate(cases) if i in chosen]


def _measures(good: list[Checked]) -> Measures:
    if not good:
        return Measures()
    dimensions = len(good[0].size)
    sizes = np.array([c.size for c in good if len(c.size) == dimensions])
    spacings = np.array([c.spacing for c in good if len(c.size) == dimensions])
    spacing = target_spacing(sizes.tolist(), spacings.tolist())
    return Measures(
        channels=good[0].channels,
        dimensions=dimensions,
        sizes=[(int(axis.min()), int(np.median(axis)), int(axis.max())) for axis in sizes.T],
        spacing=spacing,
        measured=all(is_volume(name) for c in good for name in c.case.images),
        usual=tuple(int(n) for n in np.median(np.rint(sizes * spacings / spacing), 0)),
    )


def _shares(train: MaskSplit, rule: Rule) -> tuple[float, ...]:
    counts = np.zeros(len(rule.classes))
    for i in range(len(train)):
        counts += np.bincount(train.sample(i).labels.ravel(), minlength=256)[: len(rule.classes)]
    return tuple(float(share) for share in counts / max(counts.sum(), 1))


def has_masks(path: str | Path) -> bool:
    """Whether names of folders, or of files in one folder, are those of images with masks."""
    path = Path(path).expanduser()
    if str(path) in GENERATED or label_arrays(path):
        return True
    zipped = path.is_file() and path.suffix.lower() == ".zip" and is_zipfile(path)
    if not (path.is_dir() or zipped):
        return False
    files = ZipFiles(path) if zipped else FolderFiles(path)
    steps = {folder_meaning(step) for folder in folders_of_pictures(files) for step in folder.split("/")}
    names = {rest for _, rest in steps}
    published = any((part, "") in steps and any((part, name) in steps for name in MASK_FOLDERS) for part in PARTS)
    by_folder = published or not (names.isdisjoint(IMAGE_FOLDERS) or names.isdisjoint(MASK_FOLDERS))
    return by_folder or is_nnunet(files) is not None or beside_images(files)
