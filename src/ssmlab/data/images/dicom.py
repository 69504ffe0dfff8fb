"""Single DICOM images, such as radiographs and slices, as 8-bit pictures. pydicom is imported when it is needed.

    stored values   times RescaleSlope plus RescaleIntercept
    scale           the window that is asked for, else the file's first one (WindowCenter, WindowWidth; linear, linear
                    exact or sigmoid); without one the whole range of its BitsStored becomes 0..255
    MONOCHROME1     inverted, so that more is brighter
    colour          RGB, YBR and palettes to RGB, without a window
    frames          the first one

What a header says about a person is never handed out: reasons of failures are written here, and a patient is a digest.
"""

import hashlib
import io
import logging
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

SUFFIXES = (".dcm", ".dicom")
NEEDED = "DICOM images need pydicom, which is not installed: pip install 'ssmlab[medical]'"
HEADER = 1 << 16  # bytes in which the tags before the pixels lie
# Without the 128 bytes before "DICM", as old devices write them, a file begins with a tag of these groups
_BARE = (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0")


def is_dicom(head: bytes) -> bool:
    """Whether a file's first 132 bytes are those of DICOM."""
    return head[128:132] == b"DICM" or head[:4] in _BARE


def is_bare_dicom(files: Any, name: str) -> bool:
    """Whether a file without a suffix, as scanners write them, is DICOM. files: of `ssmlab.data.files`."""
    return "." not in name.rpartition("/")[2] and is_dicom(files.head(name, 132))


def is_readable() -> bool:
    """Whether pydicom is installed."""
    return find_spec("pydicom") is not None


def read_dicom(data: bytes, window: tuple[float, float] | None = None) -> tuple[Image.Image, str, int]:
    """A DICOM file's picture (L or RGB), how it became 8 bits ("DICOM CT 40/80", "DICOM 12 bits"), and its frames.

    Args:
        window: centre and width, of rescaled values; None: the file's.
    Raises:
        ValueError: pydicom is missing, the file is damaged or holds no picture, or its compression cannot be read.
    """
    header = read_header(data)
    values = pixels_of(header)
    frames = int(_number(header, "NumberOfFrames", 1))
    values = values[0] if frames > 1 else values
    kind = str(header.get("PhotometricInterpretation", ""))
    if values.ndim == 3:
        return Image.fromarray(_colours(values)), "RGB", frames
    if kind == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        return Image.fromarray(_colours(apply_color_lut(values, header))), "P", frames
    grey, how = _grey(values.astype(np.float64), header, window)
    return Image.fromarray(255 - grey if kind == "MONOCHROME1" else grey), how, frames


def rescaled(header: Any) -> np.ndarray:
    """The values of a header's pixels, float64, by its slope and intercept.

    Raises:
        ValueError: as of `read_dicom`.
    """
    slope, intercept = _number(header, "RescaleSlope", 1.0), _number(header, "RescaleIntercept", 0.0)
    return pixels_of(header).astype(np.float64) * slope + intercept


def pixels_of(header: Any) -> np.ndarray:
    """The stored values of a header's pixels.

    Raises:
        ValueError: there are none, or they cannot be read.
    """
    if "PixelData" not in header:
        raise ValueError("DICOM without a picture, such as a report or a structure set; leave it out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return header.pixel_array
    except (AttributeError, ValueError, KeyError, NotImplementedError, RuntimeError, OSError, TypeError) as error:
        compression = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
        name = getattr(compression, "name", "unknown")
        raise ValueError(
            f"DICOM whose pixels cannot be read ({type(error).__name__}, {name}); convert it to PNG, or "
            "install more decoders: pip install pylibjpeg[all]"
        ) from None


def patient_of(head: bytes) -> str | None:
    """A digest of who a file is of, by its first `HEADER` bytes; None where it does not say that."""
    try:
        patient = str(read_header(head).get("PatientID", "")).strip()
    except ValueError:
        return None
    return hashlib.sha256(patient.encode()).hexdigest()[:12] if patient else None


def read_header(data: bytes) -> Any:
    """What pydicom makes of a file, or of its beginning.

    Raises:
        ValueError: pydicom is missing, or the file is damaged.
    """
    try:
        import pydicom
    except ImportError:
        raise ValueError(NEEDED) from None
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote headers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(io.BytesIO(data), force=True)
    # Damaged files make the reader raise nearly anything: struct.error, EOFError, InvalidDicomError
    except Exception as error:
        raise ValueError(f"DICOM that is damaged ({type(error).__name__}); copy it again") from None


def _grey(values: np.ndarray, header: Any, window: tuple[float, float] | None) -> tuple[np.ndarray, str]:
    """Values to 0..255 by a window, that of the file, or the range of its bits; and which it was."""
    slope, intercept = _number(header, "RescaleSlope", 1.0), _number(header, "RescaleIntercept", 0.0)
    values = values * slope + intercept
    bits, signed = int(_number(header, "BitsStored", 8)), bool(_number(header, "PixelRepresentation", 0))
    centre, width = window or (_number(header, "WindowCenter", 0.0), _number(header, "WindowWidth", 0.0))
    if width <= 0:
        low = -(2.0 ** (bits - 1)) if signed else 0.0
        low, span = low * slope + intercept, max(2.0**bits - 1, 1) * slope
        grey, how = (values - low) / span, f"DICOM {bits} bits"
    else:  # PS3.3 C.11.2.1.2 and C.11.2.1.3
        function = "LINEAR" if window else str(header.get("VOILUTFunction", "LINEAR")).upper()
        if function == "SIGMOID":
            grey = 1 / (1 + np.exp(-4 * (values - centre) / width))
        elif function == "LINEAR_EXACT" or width == 1:
            grey = (values - centre) / width + 0.5
        else:
            grey = (values - (centre - 0.5)) / (width - 1) + 0.5
        how = f"DICOM {header.get('Modality', '')} {centre:g}/{width:g}"
    return np.clip(np.rint(grey * 255), 0, 255).astype(np.uint8), how


def _colours(values: np.ndarray) -> np.ndarray:
    """Of 16 bits the high byte; pydicom has made RGB of YBR."""
    return (values >> 8 if values.dtype == np.uint16 else values).astype(np.uint8)


def _number(header: Any, tag: str, default: float) -> float:
    """A tag's first number; the default where it is missing, empty or no number."""
    value = header.get(tag, default)
    try:
        return float(value[0] if not isinstance(value, str) and hasattr(value, "__len__") else value)
    except (TypeError, ValueError, IndexError):
        return default
