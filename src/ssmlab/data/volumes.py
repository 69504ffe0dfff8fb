"""Volumes in NIfTI files, through nibabel, which the extra [medical] installs."""

import gzip
from dataclasses import dataclass

import numpy as np

from ssmlab.data.decode import UnreadableImage
from ssmlab.data.files import FolderFiles, ZipFiles
from ssmlab.errors import DataError

SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Volume:
    """Voxels (slices, rows, columns), which is the file's x, y, z reversed, and their distances in millimetres."""

    voxels: np.ndarray
    spacing: tuple[float, ...]


def is_volume(name: str) -> bool:
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


def read_volume(files: FolderFiles | ZipFiles, name: str) -> Volume:
    """Read one NIfTI file of two, three or four axes; a fourth axis of length 1 is dropped.

    Whole numbers stay whole numbers; scaled and floating-point voxels become float32.

    Raises:
        UnreadableImage: truncated, no NIfTI, or of another number of axes.
    """
    import nibabel

    data = files.read(name)
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        kind = nibabel.Nifti2Image if data[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Image
        image = kind.from_bytes(data)
        voxels = np.asanyarray(image.dataobj)
    # Damaged files make the reader raise nearly anything: HeaderDataError, EOFError, zlib.error, ValueError
    except Exception as error:
        raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from error
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim not in (2, 3) or voxels.size == 0:
        raise UnreadableImage(f"axes of sizes {voxels.shape}; expected two or three")
    if voxels.dtype.kind not in "iub":
        voxels = voxels.astype(np.float32)
        if not np.isfinite(voxels).all():
            raise UnreadableImage("some voxels are not finite")
    spacing = tuple(float(size) for size in image.header.get_zooms()[: voxels.ndim])
    return Volume(np.ascontiguousarray(voxels.T), spacing[::-1])
