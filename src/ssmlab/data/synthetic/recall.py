"""Generated sequences: tasks that need memory, and stand-ins for data that are not there. numpy only."""

import numpy as np

from ssmlab.data.text.documents import Document

NOISE, ASK = 0, 1  # tokens of selective copying; data tokens are the others
MOTIF = 12
RATE = 8000  # samples per second


def selective_copying(count: int, length: int, data_tokens: int, vocab: int, seed) -> tuple[np.ndarray, np.ndarray]:
    """Data tokens at random places among noise, to be repeated in their order at the end.

    Source: Gu & Dao 2023 (arXiv:2312.00752), section 4.1.1, after Jing et al. 2019.

    Args:
        count, length: sequences, and the length of each without the `data_tokens` places of the answers at its end.
        vocab: tokens, those for noise and for asking among them.
        seed: anything that numpy's generators take.
    Returns:
        tokens (count, length + data_tokens) uint8; labels of the same shape, int64, -100 where nothing is predicted.
    """
    rng = np.random.default_rng(seed)
    tokens = np.full((count, length + data_tokens), NOISE, np.uint8)
    labels = np.full(tokens.shape, -100, np.int64)
    places = np.sort(np.argpartition(rng.random((count, length), np.float32), data_tokens - 1)[:, :data_tokens], 1)
    data = rng.integers(2, vocab, (count, data_tokens), dtype=np.uint8)
    np.put_along_axis(tokens, places, data, 1)
    tokens[:, length:] = ASK
    labels[:, length:] = data
    return tokens, labels


def induction_heads(count: int, length: int, vocab: int, seed) -> tuple[np.ndarray, np.ndarray]:
    """One token is special: it occurs somewhere and again at the end, where the token after it is to be predicted.

    Source: Gu & Dao 2023 (arXiv:2312.00752), section 4.1.2, after Olsson et al. 2022.

    Args:
        vocab: tokens; the last one is the special one.
    Returns:
        tokens (count, length) uint8; labels of the same shape, int64, -100 everywhere but at the end.
    """
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab - 1, (count, length), dtype=np.uint8)
    row, place = np.arange(count), rng.integers(0, length - 2, count)
    tokens[row, place] = tokens[:, -1] = vocab - 1
    labels = np.full(tokens.shape, -100, np.int64)
    labels[:, -1] = tokens[row, place + 1]
    return tokens, labels


def generated_bases(count: int, length: int, seed: int = 0, classes: int = 4) -> list[tuple[str, Document]]:
    """(class, bases): random bases in which a motif, the class's own, returns again and again, each time mutated."""
    rng = np.random.default_rng([seed, 1])
    motifs = np.random.default_rng(7).integers(0, 4, (classes, MOTIF))
    made = []
    for i in range(count):
        bases = rng.integers(0, 4, length)
        for begin in range(int(rng.integers(MOTIF)), length - MOTIF, 2 * MOTIF):
            kept = rng.random(MOTIF) < 0.9
            bases[begin : begin + MOTIF][kept] = motifs[i % classes][kept]
        made.append((f"motif {i % classes}", Document(f"generated/{i:04d}", bases.astype(np.uint8))))
    return made


def generated_sounds(count: int, length: int, seed: int = 0, classes: int = 4) -> list[tuple[str, np.ndarray]]:
    """(class, samples from -1 to 1): a tone, overtones and noise, `RATE` samples a second; the pitch is its class."""
    rng = np.random.default_rng([seed, 2])
    time = np.arange(length) / RATE
    made = []
    for i in range(count):
        pitch = 200 * 1.5 ** (i % classes) * rng.uniform(0.97, 1.03)
        phase, loud = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.2, 0.6) / np.arange(1, 4)
        tones = loud[:, None] * np.sin(2 * np.pi * pitch * np.arange(1, 4)[:, None] * time + phase[:, None])
        made.append((f"tone {i % classes}", np.clip(tones.sum(0) + rng.normal(0, 0.02, length), -1, 1)))
    return made


def generated_reviews(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(class, text): sentences of praise or blame about things."""
    rng = np.random.default_rng([seed, 3])
    things = ("The film", "The story", "The music", "Her role", "His voice", "The ending", "The picture", "The pace")
    words = {"neg": ("dull", "weak", "awful", "tedious", "poor"), "pos": ("fine", "moving", "superb", "lively", "rich")}
    made = []
    for i in range(count):
        label = ("neg", "pos")[i % 2]
        said = [f"{rng.choice(things)} was {rng.choice(words[label])}." for _ in range(int(rng.integers(2, 6)))]
        made.append((label, " ".join(said)))
    return made


def generated_chats(count: int, seed: int = 0) -> list[tuple[str, list[tuple[str, str]]]]:
    """(id, messages): sums of two small numbers, questions and answers."""
    rng = np.random.default_rng([seed, 4])
    numbers = rng.integers(0, 10, (count, 2)).tolist()
    return [
        (f"generated:{i}", [("user", f"What is {a} + {b}?"), ("assistant", f"{a} + {b} = {a + b}")])
        for i, (a, b) in enumerate(numbers)
    ]
