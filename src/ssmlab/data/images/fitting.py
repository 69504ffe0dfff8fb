"""What becomes of pictures that are not square: how much a crop cuts off, how far a square is filled or stretched."""

from collections.abc import Sequence

import numpy as np

from ssmlab.data.contents import count

MUCH = 0.1  # of the pixels; images that lose more are counted
HARDLY = 0.01  # where no image loses more, there is nothing to say


def about_fit(sizes: Sequence[tuple[str, tuple[int, int]]], fit: str) -> str:
    """What `fit_square` does to pictures (id, (width, height)) that are not square, in a sentence; "" where all are."""
    shares = np.array(
        [min(size) / max(size) for _, size in sizes]
    )  # of a crop, what stays; of a square, what is filled
    lost = 1 - shares
    if lost.max(initial=0) <= HARDLY:
        return ""
    worst = int(lost.argmax())
    name, (width, height) = sizes[worst]
    extreme = f"{name}, {width} x {height}"
    if fit == "stretch":
        return (
            f"images that are not square are stretched, by {np.median(1 / shares):.2f} in the median, at most by "
            f"{1 / shares[worst]:.2f} ({extreme})"
        )
    how_much = f"{np.median(lost):.1%} in the median, {lost[worst]:.1%} at most ({extreme})"
    if fit == "pad":
        return f"images that are not square are padded with black, {how_much} of the square"
    much = int((lost > MUCH).sum())
    return (
        f"the middle square is taken (data.fit=crop), which cuts off {how_much} of the pixels; {count(much, 'image')} "
        f"of {len(sizes):,} {'loses' if much == 1 else 'lose'} more than {MUCH:.0%}; data.fit=pad or data.fit=stretch "
        "keeps them whole"
    )
