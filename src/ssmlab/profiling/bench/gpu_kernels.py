"""The yardstick of the GPU's exponentials."""

import triton
import triton.language as tl

BLOCK: tl.constexpr = tl.constexpr(1024)


@triton.jit
def exponentials(numbers, size, TURNS: tl.constexpr, BLOCK: tl.constexpr):
    """2^x of 2^x of ..., TURNS times for every number, in place."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(numbers + place, mask=place < size, other=0.0)
    for _ in range(TURNS):
        value = tl.exp2(-value)
    tl.store(numbers + place, value, mask=place < size)
