"""Words for messages: the nearest known name."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean a, b?" or an empty text where nothing is close."""
    close = get_close_matches(name, list(known), n=3, cutoff=0.7)
    return f"; did you mean {', '.join(close)}?" if close else ""
