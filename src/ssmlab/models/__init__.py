"""Networks, one family a file, and the table of their names. Importing this loads neither torch nor timm."""

from ssmlab.models.registry import MODELS, create_model, list_models

__all__ = ["MODELS", "create_model", "list_models"]
