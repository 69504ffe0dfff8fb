"""A trained segmentation network on new images: masks, overlays and probability maps as files."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.checkpoints.find import find_folder
from ssmlab.core.errors import DataError, ModelError
from ssmlab.core.files import write_atomically
from ssmlab.data.files import Disk
from ssmlab.data.images.decode import UnreadableImage
from ssmlab.data.masks.pairs import Case
from ssmlab.data.masks.store import ReadImage, read_image
from ssmlab.data.masks.volumes import SUFFIXES, Volume, is_volume, require_nibabel
from ssmlab.data.parts import files_in
from ssmlab.reports.theme import SERIES
from ssmlab.tasks.segment.options import SegmentOptions
from ssmlab.tasks.segment.overlays import picture, plane_of

CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net's names of the channels of one image


@dataclass(frozen=True)
class Marked:
    """What was marked in an image: `shares` of its pixels by class, and the files that were written."""

    name: str
    shares: dict[str, float]
    files: tuple[Path, ...]


def find_network(path: Path) -> tuple[Path, str]:
    """A checkpoint of nnU-Net's trainer, or the folder of a trained network and how it was chosen, see `find_folder`.

    Raises:
        ModelError: there is none.
    """
    return (path, "") if path.suffix == ".pth" else find_folder(path, ("segmentation",), choose=True)


def find_images(paths: Sequence[Path], channels: int) -> tuple[list[Case], list[str]]:
    """Images in files and folders; files of nnU-Net's names, a_0000 and a_0001, are the channels of one image.

    Raises:
        DataError: files that are not there, folders without images, or names that would overwrite each other's masks;
            all of them are listed.
    """
    files, problems, notes = files_in(paths, "scan", "images", strict=False)
    cases = _grouped(list(dict.fromkeys(files)), channels)
    names: dict[str, str] = {}
    for case in cases:
        other = names.setdefault(stem(Path(case).name), case)
        if other != case:
            problems.append(f"{case}: its mask would overwrite that of {other}; rename one, or run them apart")
    if problems:
        raise DataError(f"{len(problems)} of the images given cannot be used", problems)
    inside = {
        case: channels if len(parts) == 1 < channels and _has_fourth_axis(parts[0]) else 1
        for case, parts in cases.items()
    }
    return [
        Case(stem(Path(case).name), None, tuple(map(str, sorted(parts))), "", channels=inside[case])
        for case, parts in cases.items()
    ], notes


def _grouped(files: Sequence[Path], channels: int) -> dict[str, list[Path]]:
    """Files by case. Pictures of these names may as well be photographs that were counted: then each is a case."""
    together: dict[str, list[Path]] = {}
    for file in files:
        match = CHANNEL.fullmatch(stem(file.name)) if channels > 1 else None
        together.setdefault(str(file.parent / match[1]) if match else str(file), []).append(file)
    cases: dict[str, list[Path]] = {}
    for case, parts in together.items():
        numbers = sorted(stem(file.name)[-4:] for file in parts)
        complete = numbers == [f"{channel:04}" for channel in range(channels)] and not any(map(_coloured, parts))
        alone = numbers == ["0000"] or not CHANNEL.fullmatch(stem(parts[0].name))
        if alone or complete or is_volume(parts[0].name):
            cases[case] = parts
        else:
            cases |= {str(file): [file] for file in parts}
    return cases


def _has_fourth_axis(file: Path) -> bool:
    """Whether a volume holds several channels, as the Decathlon's do."""
    if not is_volume(file.name):
        return False
    require_nibabel()
    import nibabel

    try:
        image: Any = nibabel.load(file)
        return math.prod(image.shape[3:]) > 1
    except (OSError, ValueError, nibabel.filebasedimages.ImageFileError):
        return False  # reported when it is read


def _coloured(file: Path) -> bool:
    from PIL import Image, UnidentifiedImageError

    if is_volume(file.name):
        return False
    try:
        with Image.open(file) as image:
            return len(image.getbands()) > 1 or image.mode == "P"
    except (OSError, UnidentifiedImageError):
        return False  # reported when it is read


def stem(name: str) -> str:
    """A file's name without its suffix, without .nii.gz as a whole."""
    ending = next((end for end in SUFFIXES if name.lower().endswith(end)), Path(name).suffix)
    return name[: len(name) - len(ending)] if ending else name


class Segmenter:
    """A network that `save_model` wrote, with what its images went through; or one of nnU-Net's trainer, whose images
    are normalised each by its own mean and standard deviation. Volumes are brought to the spacing of the training, and
    turned to its directions; masks lie as their images are stored, and hold the numbers that the training's masks hold.

    Args:
        options: of the windows, see `predict_windows`, `mirror` means every axis; and of the files that are written.
    Raises:
        ModelError: the folder is incomplete, or the model is no segmentation network.
    """

    def __init__(self, path: Path, options: SegmentOptions | None = None):
        from ssmlab.core.device import choose_compute
        from ssmlab.tasks.segment.task import windows_of

        options = self.options = options or SegmentOptions()
        network, how = _loaded(path)
        self.plan = network.config.plan
        self.compute = choose_compute(options.device, "float32")
        self.network = network.to(self.compute.device).eval()
        self.channels, self.classes = network.config.in_chans, tuple(how["classes"])
        self.mean, self.std, self.spacing = tuple(how["mean"]), tuple(how["std"]), tuple(how.get("spacing", ()))
        self.directions, self.numbers = how.get("directions", ""), tuple(how.get("numbers", ()))
        axes = range(self.plan.dims) if options.mirror else ()
        # a network in 2-D that was trained on the slices of volumes has 0 along the axis that was cut
        across = self.spacing.index(0.0) if 0.0 in self.spacing else 0
        self.windows = windows_of(
            self.plan.patch_size, overlap=options.overlap, mirror=axes, batch=options.batch_size, across=across
        )

    def run(self, cases: Sequence[Case]) -> Iterator[Marked | str]:
        """Write the files of every image, and yield what was marked, or why an image cannot be used."""
        out, given = self.options.out, {Path(name).resolve() for case in cases for name in case.images}
        for case in cases:
            if {(out / f"{case.id}{end}").resolve() for end in (".png", ".tif", ".nii.gz")} & given:
                yield f"{case.images[0]}: its mask would overwrite an image; give another --out"
                continue
            try:
                found = read_image(Disk(), case, self.directions)
                yield self._write(case, found)
            except UnreadableImage as error:
                yield f"{case.images[0]}: {error}"

    def _fitting(self, image: np.ndarray) -> np.ndarray:
        """The image with the axes and channels that the network was trained on."""
        if image.ndim - 1 not in (self.plan.dims, len(self.spacing)):
            raise UnreadableImage(f"is {image.ndim - 1}-D, the network takes images in {self.plan.dims}-D")
        if self.channels == 1 and len(image) == 3 and image.dtype == np.uint8:
            return np.rint(np.tensordot((0.299, 0.587, 0.114), image, 1)).astype(np.uint8)[None]
        if len(image) != self.channels:
            raise UnreadableImage(f"has {len(image)} channels, the network takes {self.channels}")
        return image

    def _target(self, dims: int) -> tuple[float, ...]:
        """The spacing for images with so many axes whose spacing is known; of a network in 2-D, slices or volumes."""
        if dims == len(self.spacing):
            return self.spacing
        return tuple(step for step in self.spacing if step) if dims == self.plan.dims else ()

    def _write(self, case: Case, given: ReadImage) -> Marked:
        import torch

        from ssmlab.tasks.segment.task import normalised
        from ssmlab.tasks.shared.regrid import predict_at

        image, out = self._fitting(given.image), self.options.out
        spacing = given.spacing if given.volume else ()
        pixels = normalised(torch.from_numpy(image).to(self.compute.device), self.mean, self.std)
        target = self._target(len(spacing))
        found = predict_at(self.network, pixels, self.windows, spacing, target).cpu().numpy()
        labels = found.argmax(0)
        plane = plane_of(labels)
        drawn = overlay(picture(image[(slice(None), *plane)]), labels[plane])
        files = {out / f"{case.id}_overlay.png": _png(drawn)}
        written = np.array(self.numbers)[labels] if self.numbers else labels
        written = written.astype(np.min_scalar_type(int(written.max())) if written.min() >= 0 else np.int32)
        if given.volume:
            files[out / f"{case.id}.nii.gz"] = _nifti(written, given.volume, Path(case.images[0]))
        else:
            shown = written * np.uint8(255) if len(self.classes) == 2 else written
            files[out / f"{case.id}{'.tif' if given.pages else '.png'}"] = _tiff(shown) if given.pages else _png(shown)
        if self.options.probabilities:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, probabilities=found.astype(np.float16), classes=np.array(self.classes))
            files[out / f"{case.id}_probabilities.npz"] = buffer.getvalue()
        for file, content in files.items():
            write_atomically(file, content)
        shares = {name: float((labels == i).mean()) for i, name in enumerate(self.classes)}
        return Marked(case.id, shares, tuple(files))


def _loaded(path: Path) -> tuple[Any, dict[str, Any]]:
    if path.suffix == ".pth":
        from ssmlab.models.segmentation.umamba import from_trainer

        network: Any = from_trainer(path)
        names = ["background", *(f"class {i}" for i in range(1, network.config.num_classes))]
        plan = network.config.plan
        spacing = (0.0, *plan.spacing) if plan.dims == 2 and plan.spacing else plan.spacing
        return network, {"classes": names, "mean": [], "std": [], "spacing": spacing}
    from ssmlab.checkpoints.folder import load_model

    network, how = load_model(path, "segmentation")
    missing = [name for name in ("classes", "mean", "std") if name not in how]
    if missing:
        raise ModelError(f"{path / 'preprocess.json'} lacks {', '.join(missing)}; train the model again")
    return network, how


def overlay(shown: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A picture (h, w, 3) with every class but the first in a colour of its own, half transparent."""
    out = shown.astype(np.float32)
    for label in range(1, int(labels.max()) + 1):
        colour = SERIES[(label - 1) % len(SERIES)].removeprefix("#")
        where = labels == label
        out[where] = 0.5 * out[where] + 0.5 * np.frombuffer(bytes.fromhex(colour), np.uint8)
    return out.astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _tiff(slices: np.ndarray) -> bytes:
    """A stack of pages, as its image is."""
    from PIL import Image

    buffer = io.BytesIO()
    first, *rest = [Image.fromarray(page) for page in slices]
    first.save(buffer, "TIFF", save_all=True, append_images=rest, compression="tiff_deflate")
    return buffer.getvalue()


def _nifti(labels: np.ndarray, volume: Volume, source: Path) -> bytes:
    """The labels where the source's voxels lie: turned back, its affine, axes reversed back."""
    import gzip

    require_nibabel()
    import nibabel

    image: Any = nibabel.load(source)
    affine = image.affine
    stored = "".join(nibabel.aff2axcodes(affine)) if volume.directions else ""
    turned = Volume(labels, (1.0,) * labels.ndim, volume.affine, volume.directions).turned(stored)
    return gzip.compress(nibabel.Nifti1Image(turned.voxels.T, affine).to_bytes())
