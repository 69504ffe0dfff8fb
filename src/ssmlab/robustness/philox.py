"""Random numbers without a state: what an image gets depends on seed, image and transformation alone.

Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3") turns a counter of four
words of 32 bits and a key of two into four random words. The key is the seed; the counter is

    word 0   the block: four numbers each, counted from 0
    word 1   the image, its low 32 bits
    word 2   the image, its high 32 bits
    word 3   256 times the number of the transformation, plus the part: what is drawn apart from the rest
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_FACTORS = (0xD2511F53, 0xCD9E8D57)
_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_UNIT = 2.0**-24  # a float32 holds 24 bits: the upper ones of a word


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x32.

    Args:
        counter: four words, int64 in 0..2^32 - 1, of shapes that broadcast. key: two words.
    Returns:
        four words, int64 in 0..2^32 - 1.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = c0 * _FACTORS[0], c2 * _FACTORS[1]  # 64 bits: int64 wraps, and the shift's sign is masked away
        c0, c1, c2, c3 = _high(b) ^ c1 ^ k0, b & _LOW, _high(a) ^ c3 ^ k1, a & _LOW
        k0, k1 = (k0 + _STEPS[0]) & _LOW, (k1 + _STEPS[1]) & _LOW
    return c0, c1, c2, c3


def _high(product: Tensor) -> Tensor:
    return (product >> 32).bitwise_and_(_LOW)


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch of images under one transformation.

    Args:
        seed: 0 to 2^64 - 1.
        index: which images these are, (b,) int64 of at least 0.
        number: of the transformation.
    """

    seed: int
    index: Tensor
    number: int

    def words(self, count: int, part: int, device: torch.device | str) -> tuple[Tensor, ...]:
        """The four words of the first `count` blocks of every image, each (b, count) or what broadcasts to it."""
        index = self.index.to(device)[:, None]
        block = torch.arange(count, device=device)[None]
        last = torch.full((1, 1), 256 * self.number + part, dtype=torch.int64, device=device)
        return philox((block, index & _LOW, index >> 32, last), (self.seed & _LOW, self.seed >> 32 & _LOW))

    def uniform(self, *shape: int, part: int = 0, device: torch.device | str = "cpu") -> Tensor:
        """Multiples of 2^-24 in [0, 1), (b, *shape): the words in order, the upper 24 bits of each."""
        count = math.prod(shape)
        words = self.words(-(-count // 4), part, device)
        return _in_order([(word >> 8).float().mul_(_UNIT) for word in words], shape)

    def normal(self, *shape: int, part: int = 0, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal numbers, (b, *shape), by Box and Muller (1958): of words a, b and then of c, d,

        z = sqrt(-2 ln((a // 256 + 1) / 2^24)) times the cosine, then the sine of 2 pi (b // 256) / 2^24.
        """
        count = math.prod(shape)
        words = self.words(-(-count // 4), part, device)
        found = []
        for first, second in (words[:2], words[2:]):
            radius = ((first >> 8) + 1).float().mul_(_UNIT).log_().mul_(-2).sqrt_()
            angle = (second >> 8).float().mul_(2 * math.pi * _UNIT)
            found += [radius * torch.cos(angle), radius * torch.sin(angle)]
        return _in_order(found, shape)


def _in_order(columns: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Four columns (b, n) interleaved, the first of them (b, *shape)."""
    flat = torch.stack(columns, -1).flatten(1)
    return flat[:, : math.prod(shape)].reshape(len(flat), *shape)
