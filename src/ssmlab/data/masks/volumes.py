"""Volumes in NIfTI files, through nibabel, which the extra [medical] installs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.files import FolderFiles, ZipFiles, gunzip
from ssmlab.data.images.decode import UnreadableImage

SUFFIXES = (".nii.gz", ".nii")
LEAST = 2 << 30  # bytes that a compressed file may always become; masks compress a thousand times
ANISOTROPIC = 3  # an axis whose voxels are so many times longer than those of the others


@dataclass(frozen=True)
class Volume:
    """Voxels (slices, rows, columns), which is the file's x, y, z reversed, and their distances in millimetres.

    affine: (4, 4), from x, y, z of the voxels to millimetres.
    directions: towards which x, y and z rise, such as "RAS" (right, anterior, superior); "" if the file does not say.
    """

    voxels: np.ndarray
    spacing: tuple[float, ...]
    affine: np.ndarray
    directions: str = ""

    def distance(self, other: "Volume") -> float:
        """How far corners of this volume and of one of the same size are apart, in voxels of this one."""
        last = [n - 1 for n in self.voxels.shape[::-1]]
        corners = np.array([[*corner, *[0] * (3 - len(last)), 1] for corner in product(*((0, n) for n in last))])
        apart = (corners @ (self.affine - other.affine).T)[:, :3]
        return float(np.linalg.norm(apart, axis=1).max() / min(self.spacing))

    def turned(self, directions: str) -> "Volume":
        """The same voxels with axes that rise towards these directions; itself where it does not know its own."""
        if not directions or not self.directions or directions == self.directions:
            return self
        from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

        change = ornt_transform(axcodes2ornt(self.directions), axcodes2ornt(directions))
        flat = self.voxels.ndim == 2
        before = self.voxels.T[..., None] if flat else self.voxels.T
        after = apply_orientation(before, change)
        spacing = turned_sizes(self.spacing, self.directions, directions)
        if flat:  # the axis of length 1 may have moved
            after = after.squeeze(int(change[2, 0]))
        affine = self.affine @ inv_ornt_aff(change, before.shape)
        return Volume(np.ascontiguousarray(after.T), spacing, affine, directions)


def turned_sizes(sizes: Sequence, before: str, after: str) -> tuple:
    """Numbers of axes (slices, rows, columns), or (rows, columns), in their order after turning the axes."""
    if not before or not after:
        return tuple(sizes)
    from nibabel.orientations import axcodes2ornt, ornt_transform

    place = ornt_transform(axcodes2ornt(before), axcodes2ornt(after))[:, 0].astype(int)
    moved = sorted(zip(place, reversed(sizes), strict=False))
    return tuple(size for _, size in reversed(moved))


def target_spacing(sizes: Sequence[Sequence[int]], spacings: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The spacing at which a data set is trained: the median of every axis.

    Where the coarsest axis has voxels more than three times as long and less than a third as many as every other, it
    takes the tenth percentile instead, but stays the coarsest: few volumes are then made coarser along it.

    Source: Isensee et al. 2021 (nnU-Net, doi:10.1038/s41592-020-01008-z), online methods.

    Args:
        sizes, spacings: of every image (images, axes).
    """
    target, size = np.median(spacings, 0), np.median(sizes, 0)
    coarsest = int(target.argmax())
    others = [axis for axis in range(len(target)) if axis != coarsest]
    if target[coarsest] > ANISOTROPIC * target[others].max() and size[coarsest] * ANISOTROPIC < size[others].min():
        finer = np.percentile([spacing[coarsest] for spacing in spacings], 10)
        target[coarsest] = max(finer, target[others].max())
    return tuple(float(step) for step in target)


def is_volume(name: str) -> bool:
    """Whether a file is a volume, by its ending."""
    return name.lower().endswith(SUFFIXES)


def require_nibabel() -> None:
    """Say in one line what is missing, before anything is read.

    Raises:
        DataError: nibabel is not installed.
    """
    try:
        import nibabel  # noqa: F401
    except ImportError:
        raise DataError("NIfTI files need nibabel, which is not installed: pip install 'ssmlab[medical]'") from None


def read_volumes(files: FolderFiles | ZipFiles, name: str, channels: int = 1) -> list[Volume]:
    """Read one NIfTI file of two or three axes, or the channels along its last axis, as the Decathlon stores them.

    Further axes of length 1 are dropped. Whole numbers stay whole numbers; scaled and floating-point voxels become
    float32.

    Args:
        channels: how many the file holds.
    Raises:
        UnreadableImage: truncated, no NIfTI, of another number of axes or channels, or without distances of voxels.
    """
    import nibabel
    from nibabel.imageglobals import LoggingOutputSuppressor

    data = files.read(name)
    try:
        if data[:2] == b"\x1f\x8b":
            data = gunzip(data, LEAST)
        kind = nibabel.Nifti2Image if data[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Image
        with LoggingOutputSuppressor():  # it writes about damaged headers and raises as well
            image = kind.from_bytes(data)
        voxels = np.asanyarray(image.dataobj)
    # Damaged files make the reader raise nearly anything: HeaderDataError, EOFError, zlib.error, ValueError
    except Exception as error:
        raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from error
    voxels = voxels.reshape(*voxels.shape[:3], *(n for n in voxels.shape[3:] if n != 1))
    held = voxels.shape[3] if voxels.ndim == 4 else 1
    if voxels.ndim not in (2, 3, 4) or voxels.size == 0:
        raise UnreadableImage(f"axes of sizes {voxels.shape}; expected two or three")
    if held != channels:
        raise UnreadableImage(
            f"axes of sizes {voxels.shape}: {held} volumes, expected {channels}; a fourth axis is read as channels "
            "where dataset.json names as many (modality), else save each volume as a file"
            if held > 1
            else f"holds 1 channel, expected {channels}"
        )
    if voxels.dtype.kind not in "iub":
        voxels = voxels.astype(np.float32)
        if not np.isfinite(voxels).all():
            raise UnreadableImage("some voxels are not finite")
    # files hold them in float32: 0.8 is 0.800000012
    spacing = tuple(float(f"{size:.6g}") for size in image.header.get_zooms()[: min(voxels.ndim, 3)])
    if not all(0 < size < np.inf for size in spacing):
        raise UnreadableImage(f"distances of voxels are {spacing}; expected numbers above 0")
    affine, header = np.asarray(image.affine, np.float64), image.header
    known = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    codes = nibabel.aff2axcodes(affine) if known else (None,)
    directions = "" if None in codes else "".join(codes)
    apart = voxels.transpose(3, 2, 1, 0) if voxels.ndim == 4 else voxels.T[None]
    return [Volume(np.ascontiguousarray(one), spacing[::-1], affine, directions) for one in apart]
