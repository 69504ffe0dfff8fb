"""DICOM series as volumes: values, order, place, what is missing, and nothing of a person."""

import gzip
import re

import numpy as np
import pytest

pytest.importorskip("pydicom")
pytest.importorskip("nibabel")

import nibabel
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from ssmlab.core.errors import DataError
from ssmlab.data import open_images
from ssmlab.data.files import FolderFiles
from ssmlab.data.images.decode import UnreadableImage
from ssmlab.data.masks.dicom_series import find_series, read_series, write_series

NAME = "Doe^Jane"
UID = generate_uid(entropy_srcs=["a"])


def stored(number):
    return (np.arange(12).reshape(3, 4) + 100 * number + 1000).astype(np.uint16)


def write_slice(path, number, *, uid=UID, step=2.5, axes=(1, 0, 0, 0, 1, 0), slope=2.0, intercept=-1024.0,
                patient="4711"):  # fmt: skip
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientName, data.PatientID, data.SeriesInstanceUID, data.Modality = NAME, patient, uid, "CT"
    data.PatientBirthDate, data.SOPClassUID = "19700101", CTImageStorage
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 3, 4, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    data.ImageOrientationPatient, data.PixelSpacing = list(axes), [0.5, 0.7]
    normal = np.cross(axes[:3], axes[3:])
    data.ImagePositionPatient = [float(x) for x in np.array([10, 20, 30]) + step * number * normal]
    data.PixelData = stored(number).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path)


@pytest.fixture
def scan(tmp_path):
    for number, name in enumerate("dbac"):  # names do not say the order
        write_slice(tmp_path / "ct" / f"{name}.dcm", number)
    return tmp_path / "ct"


def volume_of(folder):
    files = FolderFiles(folder)
    ((_, _, names),), problems = find_series(files)
    assert not problems
    return read_series(files, names)


def test_values_order_and_place(scan):
    volume = volume_of(scan)
    assert volume.voxels.dtype == np.int16 and volume.spacing == (2.5, 0.5, 0.7)
    for number in range(4):
        assert np.array_equal(volume.voxels[number], stored(number) * 2.0 - 1024)
    corner = volume.affine @ [3, 2, 1, 1]  # x, y, z
    assert np.allclose(corner[:3], [-(10 + 3 * 0.7), -(20 + 2 * 0.5), 30 + 2.5])
    assert volume.directions == "LPS"


def test_a_missing_slice_is_one_line(scan):
    (scan / "a.dcm").unlink()
    with pytest.raises(UnreadableImage) as caught:
        volume_of(scan)
    said = str(caught.value)
    assert "1 slice missing of 4: 5 mm between b.dcm and c.dcm" in said and "\n" not in said and NAME not in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"axes": (1, 0, 0, 0, 0, 1)}, "several directions, 1 file otherwise"),
        ({"number": 2}, "lie at the same place"),
        ({"number": 2.2}, "missing of"),
    ],
)
def test_what_makes_no_volume(scan, change, said):
    write_slice(scan / "z.dcm", **{"number": 4} | change)
    with pytest.raises(UnreadableImage, match=said):
        volume_of(scan)


def test_nifti_files_without_a_name(scan, tmp_path):
    for number in range(2):
        write_slice(scan.parent / "other" / f"{number}.dcm", number, uid=generate_uid(entropy_srcs=["b"]))
    write_slice(scan.parent / "gap" / "0.dcm", 0, uid=generate_uid(entropy_srcs=["c"]))
    for number in (1, 3):
        write_slice(scan.parent / "gap" / f"{number}.dcm", number, uid=generate_uid(entropy_srcs=["c"]))
    out = tmp_path / "out"
    written, problems = write_series(scan.parent, out)
    assert len(written) == 2 and len(problems) == 1 and problems[0].startswith("gap: 1 slice missing")
    content = b"".join(gzip.decompress(path.read_bytes()) for path in written) + (out / "groups.csv").read_bytes()
    for private in (NAME, "Doe", "4711", "19700101"):
        assert private.encode() not in content and private not in " ".join([*problems, *map(str, written)])
    assert len(re.findall(r"series-\w{12}\.nii\.gz,\w{12}", (out / "groups.csv").read_text())) == 2
    image = max((nibabel.load(path) for path in written), key=lambda image: image.shape[2])
    assert np.array_equal(np.asarray(image.dataobj).T, volume_of(scan).voxels)
    with pytest.raises(DataError, match="no DICOM files"):
        write_series(out, tmp_path / "again")


def test_series_and_volumes_with_a_label(tmp_path):
    for label in ("benign", "malignant"):
        for patient in range(6):
            for number in range(4):
                uid = generate_uid(entropy_srcs=[label, str(patient)])
                place = tmp_path / "d" / label / f"p{patient}" / f"{number}.dcm"
                write_slice(place, number, uid=uid, patient=f"{label}{patient}")
    data = open_images(tmp_path / "d", slices=2, window=(1000, 4000))
    assert sum(map(len, data.splits.values())) == 24
    assert "12 volumes: 2 slices of each" in " ".join(data.notes)
    sides = [set(split.groups) for split in data.splits.values()]
    assert not sides[0] & sides[1] and not sides[1] & sides[2] and sum(map(len, sides)) == 12
    first = np.asarray(data.train.image(0))[..., 0]
    wanted = 255 * ((stored(0) * 2.0 - 1024 - 1000) / 4000 + 0.5)
    assert np.abs(first - np.clip(wanted, 0, 255)).max() <= 1
    for label in ("benign", "malignant"):
        for i in range(6):
            (tmp_path / "n" / label).mkdir(parents=True, exist_ok=True)
            voxels = np.full((4, 3, 5), i, np.int16) + np.arange(5, dtype=np.int16) * 10
            nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / "n" / label / f"{i}.nii.gz")
    found = open_images(tmp_path / "n")
    assert sum(map(len, found.splits.values())) == 12 and found.classes == ("benign", "malignant")
    assert found.train.image(0).size == (4, 3)
    assert pydicom.dcmread(tmp_path / "d/benign/p0/0.dcm").PatientName == NAME  # it was there to be found
