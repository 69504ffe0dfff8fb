"""Single DICOM images: what their values become, and the folders that RSNA and hospitals give."""

import io

import numpy as np
import pytest
from trees import agree, checked, write

from ssmlab.core.errors import DataError
from ssmlab.data import open_images
from ssmlab.data.images import dicom
from ssmlab.data.images.decode import UnreadableImage, decode

pydicom = pytest.importorskip("pydicom")
SECRET = "DOE^JANE"


def made(values, *, patient="1", preamble=True, **tags):
    """The bytes of a DICOM file; tags by their keywords."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    frame = FileDataset("x", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    frame.SOPClassUID, frame.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    frame.PatientName, frame.PatientID, frame.Modality = SECRET, patient, "CR"
    values = np.asarray(values)
    frame.Rows, frame.Columns = values.shape[-2:] if values.ndim < 4 and values.shape[-1] != 3 else values.shape[:2]
    frame.SamplesPerPixel, frame.PhotometricInterpretation = 1, "MONOCHROME2"
    frame.BitsAllocated = frame.BitsStored = 8 * values.dtype.itemsize
    frame.HighBit, frame.PixelRepresentation = frame.BitsStored - 1, int(values.dtype.kind == "i")
    frame.PixelData = values.tobytes()
    for name, value in tags.items():
        setattr(frame, name, value)
    file = io.BytesIO()
    frame.save_as(file, enforce_file_format=True)
    return file.getvalue()[0 if preamble else 132 :]


RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8)


def grey(data):
    return np.asarray(decode(data))[..., 0].astype(int)


@pytest.mark.parametrize("preamble", [True, False])
def test_eight_bits_are_themselves(preamble):
    assert (grey(made(4 * RAMP, preamble=preamble)) == 4 * RAMP).all()
    assert (grey(made(4 * RAMP, PhotometricInterpretation="MONOCHROME1")) == 255 - 4 * RAMP).all()


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_the_range_of_the_bits_stored(bits):
    values = (np.linspace(0, 2**bits - 1, 64).round()).reshape(8, 8).astype(np.uint16)
    picture = decode(made(values, BitsStored=bits, HighBit=bits - 1))
    assert picture.info == {"mode": f"DICOM {bits} bits", "frames": 1}
    expected = np.rint(values / (2**bits - 1) * 255)
    assert (np.asarray(picture)[..., 1] == expected).all()


def test_slope_intercept_and_window():
    """The formulas of PS3.3 C.11.2.1.2.1, written out once more for single values."""
    stored = (1024 + 20 * (RAMP.astype(np.int16) - 32)).astype(np.int16)
    units = stored * 2.0 - 2048
    tags = {"RescaleSlope": 2, "RescaleIntercept": -2048, "WindowCenter": 40, "WindowWidth": 400, "Modality": "CT"}
    picture = decode(made(stored, **tags))
    assert picture.info["mode"] == "DICOM CT 40/400"
    expected = [0 if u <= 39.5 - 199.5 else 255 if u > 39.5 + 199.5 else ((u - 39.5) / 399 + 0.5) * 255
                for u in units.ravel()]  # fmt: skip
    assert np.abs(np.asarray(picture)[..., 0].ravel() - expected).max() <= 0.5 + 1e-9
    exact = grey(made(stored, VOILUTFunction="LINEAR_EXACT", **tags)).ravel()
    assert np.abs(exact - np.clip((units.ravel() - 40) / 400 + 0.5, 0, 1) * 255).max() <= 0.5 + 1e-9
    several = grey(made(stored, **tags | {"WindowCenter": [40, 300], "WindowWidth": [400, 9]}))
    assert (several == np.asarray(picture)[..., 0]).all(), "the first window of several"


def test_colour_and_frames():
    colours = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    assert (np.asarray(decode(made(colours, **tags))) == colours).all()
    picture = decode(made(np.stack([RAMP, RAMP + 1]), NumberOfFrames=2))
    assert picture.info["frames"] == 2 and (np.asarray(picture)[..., 0] == RAMP).all()


def test_what_cannot_be_read_never_names_a_patient():
    whole = made(RAMP)
    for data in (whole[:-30], whole[:400], made(RAMP, BitsAllocated=16), made(RAMP, Rows=9000), made(RAMP)[:140]):
        with pytest.raises(UnreadableImage) as caught:
            decode(data)
        assert SECRET not in str(caught.value) and "\n" not in str(caught.value)


def pneumonia(root, count=24):
    """RSNA's challenge: boxes in rows of a table, several for some images, and a test part without labels."""
    rng, rows, classes = np.random.default_rng(0), ["patientId,x,y,width,height,Target"], ["patientId,class"]
    for i in range(count):
        name = f"0004cfab-14fd-4e49-80ba-{i:012d}"
        data = made(rng.integers(0, 256, (16, 16), dtype=np.uint8), patient=name)
        write(root, f"stage_2_train_images/{name}.dcm", content=data)
        rows += [f"{name},1,2,3,4,1"] * (1 + i % 2) if i % 3 == 0 else [f"{name},,,,,0"]
        classes.append(f"{name},{'Lung Opacity' if i % 3 == 0 else 'Normal'}")
    for i in range(3):
        data = made(rng.integers(0, 256, (16, 16), dtype=np.uint8))
        write(root, f"stage_2_test_images/{i:036}.dcm", content=data)
    write(root, "stage_2_train_labels.csv", content="\n".join(rows).encode())
    write(root, "stage_2_sample_submission.csv", content=b"patientId,PredictionString\n1,0.5 0 0 100 100")
    return classes


def test_a_folder_of_images_and_a_table_of_targets(tmp_path):
    detailed = pneumonia(tmp_path)
    classes, counts, said = agree(tmp_path)
    assert (classes, sum(counts.values())) == (["0", "1"], 24)
    assert "left out: 3 images in no table of labels (stage_2_test_images/" in said
    assert "converted: 24 images of DICOM 8 bits to 8 bits" in said and SECRET not in said
    write(tmp_path, "stage_2_detailed_class_info.csv", content="\n".join(detailed).encode())
    assert "several tables say classes" in checked(tmp_path)["problems"][0]
    assert checked(tmp_path, "--labels", "class")["classes"] == ["Lung Opacity", "Normal"]


def test_patients_of_the_headers_stay_together(tmp_path):
    rng = np.random.default_rng(0)
    for label in "ab":
        for i in range(20):
            data = made(rng.integers(0, 4096, (9, 9), dtype=np.uint16), patient=f"{SECRET}{i // 5}", BitsStored=12,
                        HighBit=11)  # fmt: skip
            write(tmp_path, f"{label}/series{i // 5}/IM-{i:04}" + ".dcm" * (i % 2), content=data)
    classes, counts, said = agree(tmp_path)
    assert classes == ["a", "b"] and sum(counts.values()) == 40 and SECRET not in said
    assert "40 DICOM images of 4 patients by their headers; those of one stay together" in said
    series = [{name.split("/")[1] for name in split.ids} for split in open_images(tmp_path).splits.values()]
    assert sum(map(len, series)) == 4
    for label in "ab":
        (tmp_path / "train" / label).parent.mkdir(exist_ok=True)
        (tmp_path / label).rename(tmp_path / "train" / label)
        data = made(np.ones((9, 9), np.uint16), patient=f"{SECRET}0")
        write(tmp_path, *(f"test/{label}/{i}.dcm" for i in range(3)), content=data)
    assert any("1 patient of the DICOM headers in more than one part" in w for w in checked(tmp_path)["warnings"])


def test_the_missing_extra_is_named_in_one_line(tmp_path, monkeypatch):
    write(tmp_path, *(f"{label}/{i}.dcm" for label in "ab" for i in range(3)), content=made(RAMP))
    monkeypatch.setattr(dicom, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"^a/0.dcm: DICOM images need pydicom.*pip install 'ssmlab\[medical\]'$"):
        open_images(tmp_path)
