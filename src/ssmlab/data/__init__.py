"""Data sets in the formats people have them; numpy and Pillow only: torch is never imported here.

Nothing heavy is imported before one of the names below is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssmlab.data.check import CheckReport, check_images
    from ssmlab.data.checking import check_data
    from ssmlab.data.images.reader import ImageData, Split, open_images

__all__ = ["CheckReport", "ImageData", "Split", "check_data", "check_images", "open_images"]
_FROM = {
    "CheckReport": "check", "check_images": "check", "check_data": "checking",
    "ImageData": "images.reader", "Split": "images.reader", "open_images": "images.reader",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
