"""Networks, one family a file, and the tables of their names. Importing this loads neither torch nor timm."""

from ssmlab.models.language.names import create_language_model, list_language_models
from ssmlab.models.registry import MODELS, create_model, list_models, load_model, save_model
from ssmlab.models.segmentation.names import create_segmenter, list_segmentation_models

__all__ = [
    "MODELS",
    "create_language_model",
    "create_model",
    "create_segmenter",
    "list_language_models",
    "list_models",
    "list_segmentation_models",
    "load_model",
    "save_model",
]
