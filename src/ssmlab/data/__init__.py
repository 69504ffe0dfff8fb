"""Labelled images in the formats people have them; numpy and Pillow only: torch is never imported here."""

from ssmlab.data.check import CheckReport, check_images
from ssmlab.data.images.reader import ImageData, Split, open_images

__all__ = ["CheckReport", "ImageData", "Split", "check_images", "open_images"]
