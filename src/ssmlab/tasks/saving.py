"""Trained models in folders that `load_model` reads, those of timm included."""

from pathlib import Path
from typing import Any

from ssmlab.checkpoints.files import save_language_model
from ssmlab.checkpoints.find import PREPROCESS, WEIGHTS
from ssmlab.checkpoints.folder import save_model
from ssmlab.core.errors import UserError
from ssmlab.core.files import write_json, write_tensors
from ssmlab.models import create_model
from ssmlab.models.entry import TIMM
from ssmlab.models.language.language_model import LanguageModel
from ssmlab.tasks.language.experiment import copy_tokenizer
from ssmlab.tasks.vision_language.building import save as save_vision_language
from ssmlab.training.resume import contiguous


def save(model: Any, folder: Path, about: dict[str, Any]) -> str:
    """Write a trained model so that `load_model` builds it again; "", or why that is not possible.

    A model of timm is saved as `timm/<name>`; of a module that nothing can build again the weights are written alone.

    Args:
        about: what inputs go through before it.
    """
    about = {key: value for key, value in about.items() if key != "folder"}
    if about.get("task") == "translate":
        save_model(model, folder, about)
        model.tokenizer.save(folder)
        return ""
    if about.get("task") == "vision_language":
        save_vision_language(model, folder, about)
        return ""
    if isinstance(model, LanguageModel):
        save_language_model(model, folder)
        write_json(folder / PREPROCESS, about)
        copy_tokenizer(about.get("tokenizer", ""), folder)
        return ""
    if getattr(model, "registry_name", None) is None:
        _name_of_timm(model)
    if getattr(model, "registry_name", None) is not None:
        save_model(model, folder, about)
        if about.get("kind") == "text":
            copy_tokenizer(about.get("tokenizer", ""), folder)
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, contiguous(model.state_dict()), {"format": "pt"})
    write_json(folder / PREPROCESS, about)
    return f"{folder} holds the weights alone: nothing says how {type(model).__name__} is built"


def _name_of_timm(model: Any) -> None:
    """Give a model of timm the name and config by which `create_model` builds one with the same parameters."""
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if not name or hasattr(model, "config"):
        return
    first = next(tensor for tensor in model.parameters() if tensor.ndim > 1)
    try:
        rebuilt: Any = create_model(f"{TIMM}{name}", num_classes=model.num_classes, in_chans=first.shape[1])
    except UserError:
        return
    one, other = ({key: tensor.shape for key, tensor in each.state_dict().items()} for each in (model, rebuilt))
    if one == other:
        model.registry_name, model.config = rebuilt.registry_name, rebuilt.config
