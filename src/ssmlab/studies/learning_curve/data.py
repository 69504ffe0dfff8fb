"""The images of a learning curve: those of any classification."""

from ssmlab.tasks.classify.data import load_images

__all__ = ["load_images"]
