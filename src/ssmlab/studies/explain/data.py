"""The images of a run that explains mistakes: those of a classification."""

from ssmlab.tasks.classify.data import load_images

__all__ = ["load_images"]
