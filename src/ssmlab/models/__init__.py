"""Networks, one family a file, and the table of their names. Importing this loads neither torch nor timm."""

from ssmlab.models.registry import MODELS, create_language_model, create_model, create_segmenter, list_models

__all__ = ["MODELS", "create_language_model", "create_model", "create_segmenter", "list_models"]
