"""nnU-Net's raw layout: imagesTr/CASE_0000.EXT, labelsTr/CASE.EXT, dataset.json; imagesTs and labelsTs where there are.

The Medical Segmentation Decathlon's CASE.EXT, without a number of the channel, is read too: its volumes have a fourth
axis where there are several channels.

dataset.json is read as version 2 writes it ("channel_names", labels {"background": 0}) and as version 1 did
("modality", labels {"0": "background"}). Source: Isensee et al. 2021 (doi:10.1038/s41592-020-01008-z), and the
documentation of nnU-Net's dataset format.
"""

import json
import re

from ssmlab.core.errors import DataError
from ssmlab.data.contents import PARTS, count, some
from ssmlab.data.files import FolderFiles, ZipFiles
from ssmlab.data.images.decode import UnreadableImage
from ssmlab.data.masks.pairs import Case, MaskContents
from ssmlab.data.masks.volumes import is_volume
from ssmlab.data.names import folder_meaning
from ssmlab.data.parts import sort_files

DESCRIPTION = "dataset.json"
_CHANNEL = re.compile(r"^(.*)_(\d{4})$")


def is_nnunet(files: FolderFiles | ZipFiles) -> str | None:
    """The prefix below which the layout lies ("" or "Dataset001_Name/"), or None."""
    for name in files.files:
        prefix = name.removesuffix(DESCRIPTION)
        if name.endswith(DESCRIPTION) and prefix.count("/") <= 1 and prefix + "imagesTr" in files.folders:
            return prefix
    return None


def read_nnunet(files: FolderFiles | ZipFiles, prefix: str) -> MaskContents:
    """The cases of a data set in nnU-Net's raw layout.

    Raises:
        DataError: dataset.json cannot be read, or says nothing about labels.
    """
    where = prefix + DESCRIPTION
    described, classes, values = _described(files, where)
    channels = described.get("channel_names") or described.get("modality") or {"0": "0"}
    if not isinstance(channels, dict | list):
        raise DataError(f'{where}: channel_names are {channels!r}; expected a table, such as {{"0": "CT"}}')
    ending = str(described.get("file_ending", ".nii.gz"))
    contents = MaskContents(
        name=str(described.get("name") or files.path.stem),
        format="nnunet",
        cases=[],
        classes=classes,
        values=values,
        problems=list(files.problems),
    )
    listed = sort_files(files, "mask", classed=False)
    contents.notes += [*listed.notes, *listed.warnings]
    folders = {folder_meaning(name[len(prefix) :]): name for name in files.folders if name.startswith(prefix)}
    for part in PARTS:
        images = _named(files, folders.get((part, "images"), ""), ending)
        labels = _named(files, folders.get((part, "labels"), ""), ending)
        if part != "train" and not labels:
            if images:
                folder = folders[(part, "images")].removeprefix(prefix)
                contents.notes.append(f"left out: {folder}, which has no labels ({count(len(images), 'file')})")
            continue
        _pair(contents, part, images, labels, len(channels), in_one=not is_volume(ending) and len(channels) == 3)
    names = channels.values() if isinstance(channels, dict) else channels
    if len(channels) > 1:
        contents.notes.append(f"channels: {', '.join(map(str, names))} ({DESCRIPTION})")
    announced = described.get("numTraining")
    found = sum(case.part == "train" for case in contents.cases)
    if isinstance(announced, int) and announced != found:
        contents.notes.append(f"dataset.json speaks of numTraining {announced}, found {found}")
    if not contents.cases and not contents.problems:
        contents.problems.append(f"{prefix}imagesTr/: no files that end in {ending}, the file_ending of dataset.json")
    return contents


def _described(files, where):
    """dataset.json, the names of its classes, and label value -> class."""
    try:
        described = json.loads(files.read(where))
    except (UnreadableImage, ValueError) as error:
        raise DataError(f"{where}: cannot be read ({error})") from None
    if not isinstance(described, dict) or not isinstance(described.get("labels"), dict):
        raise DataError(f'{where}: has no table "labels", such as {{"background": 0, "road": 1}}')
    labels = described["labels"]
    if all(isinstance(name, str) and number.strip().isdigit() for number, name in labels.items()):  # version 1
        labels = {name: int(number) for number, name in labels.items()}
    try:
        numbers = {str(name): int(number) for name, number in labels.items()}
        if any(isinstance(number, float) and number % 1 for number in labels.values()) or min(numbers.values()) < 0:
            raise ValueError
    except (TypeError, ValueError):
        raise DataError(
            f"{where}: labels are {labels}; expected one whole number a class (regions of several labels are not read)"
        ) from None
    ordered = sorted((number, name) for name, number in numbers.items() if name != "ignore")
    if len({number for number, _ in ordered}) != len(ordered) or len(ordered) < 2:
        raise DataError(f"{where}: labels are {labels}; expected at least two classes, each with its own number")
    values = {number: index for index, (number, _) in enumerate(ordered)}
    if "ignore" in numbers:
        values[numbers["ignore"]] = -1
    return described, tuple(name for _, name in ordered), values


def _named(files, folder, ending):
    """Stem -> name of the files directly below a folder."""
    if not folder:
        return {}
    prefix = folder + "/"
    inside = [name for name in files.files if name.startswith(prefix) and "/" not in name[len(prefix) :]]
    return {name[len(prefix) : -len(ending)]: name for name in inside if name.endswith(ending)}


def _pair(contents, part, images, labels, channels, in_one):
    """Cases with their channels; `in_one`: red, green and blue may be one picture, as nnU-Net's Road data have it."""
    cases: dict[str, dict[int, str]] = {}
    unnumbered = set()
    for stem, name in images.items():
        parts = _CHANNEL.match(stem)
        if stem in labels and (parts is None or parts[1] not in labels):  # the Decathlon has no numbers of channels
            cases[stem] = {0: name}
            unnumbered.add(stem)
        elif parts is None:
            contents.problems.append(f"{name}: has no channel in its name; expected {stem}_0000")
        else:
            cases.setdefault(parts[1], {})[int(parts[2])] = name
    for case, found in cases.items():
        wanted = range(1 if (in_one or case in unnumbered) and set(found) == {0} else channels)
        missing = [f"_{channel:04}" for channel in wanted if channel not in found]
        if missing:
            contents.problems.append(f"{next(iter(found.values()))}: channels {some(missing)} of its case are missing")
        elif case not in labels:
            contents.problems.append(f"{found[0]}: an image without a mask; add one, or remove it")
        else:
            names = tuple(found[channel] for channel in wanted)
            inside = channels if case in unnumbered and is_volume(names[0]) else 1
            contents.cases.append(Case(names[0], part, names, labels[case], channels=inside))
    lonely = [name for case, name in labels.items() if case not in cases]
    contents.problems += [f"{name}: a mask without an image; add the image, or remove it" for name in lonely]
