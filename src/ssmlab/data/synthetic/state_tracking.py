"""Generated sequences whose answer is a state that every token changes: parity, modular arithmetic. numpy only."""

import numpy as np


def parity(count: int, length: int, seed, *, every: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Bits after a start token; the answer is whether the ones so far are odd in number.

    A state that only shrinks cannot follow it: every one has to turn the sign over. Source: Grazzi et al. 2024
    (arXiv:2411.12537), section 3; Mamba-3 (arXiv:2603.15569), table 5b.

    Args:
        count, length: sequences, and the bits of each; the start token, 2, comes before them.
        seed: anything that numpy's generators take.
        every: ask at every bit, as for training; else at the last one alone, where guessing is right half the time.
    Returns:
        tokens (count, 1 + length) uint8; labels of the same shape, int64, -100 where nothing is predicted.
    """
    return modular_sum(count, length, 2, seed, every=every)


def modular_sum(count: int, length: int, modulus: int, seed, *, every: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Numbers from 0 to modulus - 1 after a start token, `modulus`; the answer is their sum so far, modulo `modulus`.

    Arguments and results are those of `parity`, which it is for modulus 2.
    """
    numbers = np.random.default_rng(seed).integers(0, modulus, (count, length), dtype=np.uint8)
    return _asked(numbers, np.cumsum(numbers, axis=1) % modulus, start=modulus, every=every)


def modular_arithmetic(
    count: int, length: int, modulus: int, seed, *, every: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers joined by + and -, as in 3 + 1 - 4; the answer is the value so far, modulo `modulus`.

    Args:
        count, length: sequences, and the tokens of each: numbers and operators in turn, so an even length's last
            operator waits in vain.
        modulus: numbers are 0 to modulus - 1; + is the token `modulus`, - the next, and the start token the one after.
        seed, every: as for `parity`; there are answers at numbers only, at the last of them where not at every one.
    Returns:
        As `parity`.
    """
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, modulus, (count, (length + 1) // 2))
    minus = rng.integers(0, 2, (count, length // 2))
    signs = np.concatenate([np.ones((count, 1), int), 1 - 2 * minus], axis=1)[:, : numbers.shape[1]]
    values = np.cumsum(numbers * signs, axis=1) % modulus
    tokens = np.empty((count, length), np.uint8)
    tokens[:, ::2], tokens[:, 1::2] = numbers, modulus + minus
    tokens, labels = _asked(tokens, np.repeat(values, 2, axis=1)[:, :length], start=modulus + 2, every=True)
    labels[:, 2::2] = -100
    if not every:
        labels[:, : (length - 1) // 2 * 2 + 1] = -100
    return tokens, labels


def _asked(tokens: np.ndarray, answers: np.ndarray, *, start: int, every: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tokens after the start token, and the answers, at every place or the last."""
    tokens = np.pad(tokens, ((0, 0), (1, 0)), constant_values=start)
    labels = np.full(tokens.shape, -100, np.int64)
    if every:
        labels[:, 1:] = answers
    else:
        labels[:, -1] = answers[:, -1]
    return tokens, labels
