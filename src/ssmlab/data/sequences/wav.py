"""Sound from .wav files as tokens of 8 bits: read by scipy, so that every Python version reads the same."""

import io
import warnings
from math import gcd
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.data.contents import count, some
from ssmlab.data.text.documents import Document, File, find_files

LEVELS = 256
CUT = "it is cut off; give a whole .wav"
LOUDEST = 4.0  # floating-point samples that reach further are on another scale than -1 to 1
_UNKNOWN_LENGTH = 0x7FFFF000  # programs that write into a pipe give this or more as the file's length


class Sound(NamedTuple):
    """Samples (l,) float32 from -1 to 1, samples per second, and the channels whose mean they are."""

    samples: np.ndarray
    rate: int
    channels: int


def read_wavs(path: str | Path, files: list[tuple[str, File]] | None = None) -> tuple[list[Document], int, list[str]]:
    """Every .wav below a folder, or one, mu-law encoded; their samples per second; what the user should know.

    Channels are averaged. Sounds of another rate than most are resampled to it, so that a token lasts equally long in
    all of them.

    Args:
        files: (id, file) of those that are read; all below the path where they are not given.
    Raises:
        DataError: with every file that cannot be read.
    """
    files = files or find_files(path, "audio", "a .wav file or a folder of them")
    documents, seen, problems = {}, {}, []
    for id, file in files:
        try:
            sound = read_sound(io.BytesIO(file.read_bytes()))
        except (OSError, ValueError) as error:
            problems.append(f"{id}: {error}")
            continue
        documents[id] = Document(id, mu_law(sound.samples))
        seen[id] = _Seen(sound.rate, sound.channels, bool(np.abs(sound.samples).max() > 1))
    if problems:
        raise DataError(f"{path}: {len(problems)} of the files cannot be used", problems)
    rates = [sound.rate for sound in seen.values()]
    usual = max(sorted(set(rates)), key=rates.count)
    for id, file in files:
        if seen[id].rate != usual:  # read once more: the samples of all sounds would take four times the memory
            sound = read_sound(io.BytesIO(file.read_bytes()))
            documents[id] = Document(id, mu_law(resampled(sound.samples, sound.rate, usual)))
    several = {id: sound.channels for id, sound in seen.items() if sound.channels > 1}
    other = {id: sound.rate for id, sound in seen.items() if sound.rate != usual}
    loud = [id for id, sound in seen.items() if sound.loud]
    notes = []
    if several:
        channels = " or ".join(map(str, sorted(set(several.values()))))
        notes.append(f"{count(len(several), 'sound')} of {channels} channels, whose mean is taken ({some(several)})")
    if other:
        unusual = some(f"{rate:,}" for rate in sorted(set(other.values())))
        notes.append(
            f"{count(len(other), 'sound')} of {unusual} samples per second, resampled to {usual:,} ({some(other)})"
        )
    if loud:
        notes.append(f"{count(len(loud), 'sound')} louder than -1 to 1, cut off there ({some(loud)})")
    return list(documents.values()), usual, notes


class _Seen(NamedTuple):
    rate: int
    channels: int
    loud: bool


def read_wav(file: str | Path | BinaryIO) -> tuple[np.ndarray, int]:
    """Samples and rate of a sound, see `read_sound`."""
    return read_sound(file)[:2]


def read_sound(file: str | Path | BinaryIO) -> Sound:
    """A .wav by its name or opened: 8 to 64 bit whole numbers or 32 and 64 bit floats, plain or WAVE_FORMAT_EXTENSIBLE.

    Raises:
        ValueError: no .wav, coded otherwise, cut off, or no samples.
    """
    content = Path(file).read_bytes() if isinstance(file, str | Path) else file.read()
    if content and content[:4] not in (b"RIFF", b"RIFX", b"RF64"):
        raise ValueError("no .wav of plain samples; give one, or convert the sound to 16 bit PCM")
    declared = 8 + int.from_bytes(content[4:8], "big" if content[:4] == b"RIFX" else "little")
    # The byte that fills an odd chunk up is left out by some programs.
    if len(content) < 12 or len(content) + 1 < declared < _UNKNOWN_LENGTH:
        raise ValueError(CUT)
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks of notes, lengths that were not known
            rate, values = wavfile.read(io.BytesIO(content))
    # Damaged headers make the reader raise nearly anything: ValueError, struct.error, ZeroDivisionError
    except Exception as error:
        reason = " ".join(str(error).split()).split(". Supported")[0] or type(error).__name__
        raise ValueError(f"no .wav of plain samples ({reason}); convert it to 16 bit PCM") from None
    if not values.size or rate <= 0:
        raise ValueError("it has no samples; leave it out")
    channels = values.shape[1] if values.ndim > 1 else 1
    if values.dtype == np.uint8:  # all become -1 to 1
        values = (values.astype(np.float32) - 128) / 128
    elif values.dtype.kind == "i":
        values = values / 2.0 ** (8 * values.dtype.itemsize - 1)
    elif not np.isfinite(values).all():
        raise ValueError("some samples are not finite; export the sound again")
    elif np.abs(values).max() > LOUDEST:
        raise ValueError(f"samples reach {np.abs(values).max():,.5g}, where floats lie within -1 to 1; scale them")
    return Sound((values.mean(1) if channels > 1 else values).astype(np.float32), int(rate), channels)


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """The same sound with `wanted` samples per second, by a polyphase filter that keeps what the new rate can hold."""
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly

    common = gcd(rate, wanted)
    return resample_poly(samples, wanted // common, rate // common).astype(np.float32)


def mu_law(samples: np.ndarray) -> np.ndarray:
    """Samples from -1 to 1 to uint8: 255 logarithmic steps of loudness, 128 is silence.

    Source: ITU-T G.711 with mu = 255, in its continuous form, as WaveNet quantises (arXiv:1609.03499, section 2.2).
    """
    x = np.clip(samples, -1, 1)
    loud = np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256)
    return np.floor((loud + 1) / 2 * 255 + 0.5).astype(np.uint8)
