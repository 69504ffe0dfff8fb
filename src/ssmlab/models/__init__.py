"""Networks, one family a file, and the table of their names. Importing this loads neither torch nor timm."""

from ssmlab.models.registry import MODELS, create_model, list_models, load_model, save_model

__all__ = ["MODELS", "create_model", "list_models", "load_model", "save_model"]
