"""Sound from .wav files as tokens of 8 bits. numpy and the standard library only."""

import wave
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ssmlab.data.text import Document, find_files
from ssmlab.errors import DataError

LEVELS = 256
CUT = "it is cut off; give a whole .wav"


def read_wavs(path: str | Path, files: list[tuple[str, Path]] | None = None) -> tuple[list[Document], int]:
    """Every .wav below a folder, or one, mu-law encoded, and their samples per second; channels are averaged.

    Args:
        files: (id, file) of those that are read; all below the path where they are not given.
    Raises:
        DataError: with every file that cannot be read, or has other samples per second than most.
    """
    documents, rates, problems = [], [], []
    for id, file in files or find_files(path, (".wav",), "a .wav file or a folder of them"):
        try:
            samples, rate = read_wav(file)
        except (OSError, ValueError) as error:
            problems.append(f"{id}: {error}")
            continue
        documents.append(Document(id, mu_law(samples)))
        rates.append(rate)
    usual = max(set(rates), key=rates.count) if rates else 0
    problems += [
        f"{document.id}: {rate:,} samples per second, most have {usual:,}; resample it"
        for document, rate in zip(documents, rates, strict=True)
        if rate != usual
    ]
    if problems:
        raise DataError(f"{path}: {len(problems)} of the files cannot be used", problems)
    return documents, usual


def read_wav(file: str | Path | BinaryIO) -> tuple[np.ndarray, int]:
    """Samples (l,) float32 from -1 to 1, and samples per second, of a file by its name or opened.

    Raises:
        ValueError: no .wav, or cut off, or no samples, or of a width that is not 8, 16, 24 or 32 bits.
    """
    try:
        with wave.open(str(file) if isinstance(file, str | Path) else file, "rb") as sound:
            channels, width, rate, count, *_ = sound.getparams()
            content = sound.readframes(count)
    except wave.Error:
        raise ValueError("no .wav of plain samples; give one, or convert the sound to 16 bit PCM") from None
    except EOFError:
        raise ValueError(CUT) from None
    if not content or len(content) % (channels * width):
        raise ValueError("it has no samples; leave it out" if not content else CUT)
    if width == 1:
        values = (np.frombuffer(content, np.uint8).astype(np.float32) - 128) / 128
    elif width == 3:
        raw = np.zeros((len(content) // 3, 4), np.uint8)
        raw[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        values = raw.view("<i4")[:, 0].astype(np.float32) / 2**31
    elif width in (2, 4):
        values = np.frombuffer(content, f"<i{width}").astype(np.float32) / 2 ** (8 * width - 1)
    else:
        raise ValueError(f"samples of {8 * width} bits; convert them to 16 bit PCM")
    return values.reshape(-1, channels).mean(1), rate


def mu_law(samples: np.ndarray) -> np.ndarray:
    """Samples from -1 to 1 to uint8: 255 logarithmic steps of loudness, 128 is silence.

    Source: ITU-T G.711 with mu = 255, in its continuous form, as WaveNet quantises (arXiv:1609.03499, section 2.2).
    """
    x = np.clip(samples, -1, 1)
    loud = np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256)
    return np.floor((loud + 1) / 2 * 255 + 0.5).astype(np.uint8)


def from_mu_law(tokens: np.ndarray) -> np.ndarray:
    """The inverse: uint8 to samples (l,) float32."""
    loud = tokens.astype(np.float32) / 255 * 2 - 1
    return (np.sign(loud) * np.expm1(np.abs(loud) * np.log(256)) / 255).astype(np.float32)
