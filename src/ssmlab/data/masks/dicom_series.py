"""DICOM series: the files of one scan as one volume, checked, with nothing that a header says about a person.

    values      of every slice by its own RescaleSlope and RescaleIntercept: Hounsfield units of a CT
    order       by position along the normal of the slices, whatever the files are called
    place       ImageOrientationPatient, ImagePositionPatient and PixelSpacing as an affine, as NIfTI has it

A series whose slices lie in several directions, as of a localiser, or that lacks one, is a problem in one line.
"""

import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.core.files import write_atomically
from ssmlab.core.text import csv_text
from ssmlab.data.contents import count, some
from ssmlab.data.files import Files, FolderFiles
from ssmlab.data.images.decode import UnreadableImage
from ssmlab.data.images.dicom import HEADER, is_bare_dicom, read_header, rescaled
from ssmlab.data.images.dicom import SUFFIXES as DICOM
from ssmlab.data.masks.volumes import Volume

TURNED = 1e-3  # by how much direction cosines of one series may differ: they are rounded
UNEVEN = 0.1  # by which share of the distance of slices it may differ


class Series(NamedTuple):
    """The files of one series. name, patient: digests of what the header says; "" where it does not say a patient."""

    name: str
    patient: str
    files: list[str]


def find_series(files: Files, names: Sequence[str] | None = None) -> tuple[list[Series], list[str]]:
    """The series among some files, or all, by the SeriesInstanceUID of their headers; and what cannot be read.

    Files of one series lie in one folder; a UID that two folders share names two series.
    """
    chosen = files.files if names is None else names
    found: dict[tuple[str, str], Series] = {}
    problems = []
    for name in sorted(chosen):
        if not (name.lower().endswith(DICOM) or is_bare_dicom(files, name)):
            continue
        try:
            header = read_header(files.head(name, HEADER))
        except ValueError as error:
            problems.append(f"{name}: cannot be read ({error})")
            continue
        uid, folder = str(header.get("SeriesInstanceUID", "")), name.rpartition("/")[0]
        patient = str(header.get("PatientID", "")).strip()
        series = Series(_digest(f"{uid}{folder}"), _digest(patient) if patient else "", [])
        found.setdefault((uid, folder), series).files.append(name)
    return list(found.values()), problems


def read_series(files: Files, names: Sequence[str]) -> Volume:
    """The volume of a series: voxels (slices, rows, columns), float32, or int16 where all values are whole.

    Raises:
        UnreadableImage: a file is damaged; slices differ in size, direction or distance; one is missing or twice there.
    """
    slices = []
    for name in names:
        try:
            header = read_header(files.read(name))
            slices.append(_slice(name, header))
        except ValueError as error:
            raise UnreadableImage(f"{name}: {error}") from None
    first = slices[0]
    for one in slices[1:]:
        if one.values.shape != first.values.shape or not np.allclose(one.spacing, first.spacing, rtol=1e-4):
            raise UnreadableImage(f"{one.name} has another size or spacing than {first.name}; they are no one volume")
    turned = [one.name for one in slices if np.abs(one.axes - first.axes).max() > TURNED]
    if turned:
        raise UnreadableImage(
            f"its slices lie in several directions, {count(len(turned), 'file')} otherwise than {first.name} "
            f"({some(turned)}); give each direction a folder of its own"
        )
    normal = np.cross(*first.axes)
    slices.sort(key=lambda one: float(one.position @ normal))
    places = np.array([one.position @ normal for one in slices])
    step = _step(slices, places)
    affine = np.eye(4)
    affine[:3, 0] = first.axes[0] * first.spacing[1]  # along a row, columns rise
    affine[:3, 1] = first.axes[1] * first.spacing[0]
    apart = slices[-1].position - slices[0].position
    affine[:3, 2] = apart / (len(slices) - 1) if len(slices) > 1 else normal * step
    affine[:3, 3] = slices[0].position
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM counts towards left and posterior
    from nibabel import aff2axcodes

    voxels = np.stack([one.values for one in slices])
    whole = voxels.astype(np.int16)
    voxels = whole if np.array_equal(whole, voxels) else voxels.astype(np.float32)
    spacing = tuple(float(f"{size:.6g}") for size in (step, *first.spacing))
    return Volume(voxels, spacing, affine, "".join(aff2axcodes(affine)))


class _Slice(NamedTuple):
    name: str
    values: np.ndarray
    axes: np.ndarray
    position: np.ndarray
    spacing: tuple[float, float]
    thickness: float


def _slice(name: str, header: Any) -> _Slice:
    for tag in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
        if not header.get(tag):
            raise ValueError(f"DICOM without {tag}, so that nobody knows where it lies; take single images instead")
    axes = np.array(header.ImageOrientationPatient, np.float64).reshape(2, 3)
    spacing = tuple(float(each) for each in header.PixelSpacing)
    values = rescaled(header)
    if values.ndim != 2:
        raise ValueError("DICOM of several frames or of colours; a series has one grey slice a file")
    thickness = float(header.get("SliceThickness") or 1.0)
    return _Slice(name, values, axes, np.array(header.ImagePositionPatient, float), spacing, thickness)  # type: ignore[arg-type]


def _step(slices: list[_Slice], places: np.ndarray) -> float:
    """The distance of neighbouring slices; of one slice its thickness."""
    if len(slices) == 1:
        return slices[0].thickness
    gaps = np.diff(places)
    step = float(np.median(gaps))
    if gaps.min() < UNEVEN * max(step, 1e-6):
        at = int(gaps.argmin())
        raise UnreadableImage(f"{slices[at].name} and {slices[at + 1].name} lie at the same place; keep one of them")
    far = [i for i, gap in enumerate(gaps) if gap > (1 + UNEVEN) * step]
    if far:
        lost = sum(max(round(gaps[i] / step) - 1, 1) for i in far)
        between = f"{slices[far[0]].name} and {slices[far[0] + 1].name}"
        raise UnreadableImage(
            f"{count(lost, 'slice')} missing of {len(slices) + lost}: {gaps[far[0]]:.3g} mm between {between}, "
            f"{step:.3g} mm between the others; copy the series again"
        )
    return step


def write_series(folder: Path, out: Path) -> tuple[list[Path], list[str]]:
    """Write every series below a folder as NIfTI, with a groups.csv of their patients; nothing of a header goes along.

    Returns:
        the files, named after digests of the series, and the problems, one line each; a series with one is left out.
    Raises:
        DataError: there is no DICOM file.
    """
    import nibabel

    files = FolderFiles(folder)
    series, problems = find_series(files)
    if not series and not problems:
        raise DataError(f"{folder}: no DICOM files; give a folder of .dcm, or of files without a suffix that are DICOM")
    written, rows = [], [["file", "patient"]]
    for one in series:
        try:
            volume = read_series(files, one.files)
        except UnreadableImage as error:
            problems.append(f"{one.files[0].rpartition('/')[0] or folder.name}: {error}")
            continue
        image = nibabel.Nifti1Image(volume.voxels.T, volume.affine)
        image.header.set_xyzt_units("mm")
        path = out / f"series-{one.name}.nii.gz"
        write_atomically(path, gzip.compress(image.to_bytes()))
        written.append(path)
        rows.append([path.name, one.patient])
    if written and all(patient for _, patient in rows[1:]):
        write_atomically(out / "groups.csv", csv_text(rows))
    return written, problems


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
