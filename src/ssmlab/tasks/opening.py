"""The model that somebody means in Python or on the command line, with what its inputs go through."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ssmlab.core.errors import ModelError, UserError
from ssmlab.models import create_model, load_model, save_model
from ssmlab.tasks.results import Fitted

TASK_OF = {
    "vision": "classify",
    "segmentation": "segment",
    "language": "language",
    "sequence_classifier": "classify_sequence",
}


class Opened(NamedTuple):
    """A network, the name of its task ("" where nothing says it), what its inputs go through, and how it was found."""

    network: Any
    task: str
    about: dict[str, Any]
    folder: Path | None = None
    note: str = ""


def open_model(model: Any) -> Opened:
    """The model that is meant.

    Args:
        model: a module, a `Fitted`, the folder of a trained model or of a run, or a name with published weights.
    Raises:
        ModelError: there is no such model.
    """
    if isinstance(model, Fitted):
        model = model.model
    if isinstance(model, nn.Module):
        about = dict(getattr(model, "preprocess_config", {}))
        return Opened(model, about.get("task") or TASK_OF.get(_kind(model), ""), about)
    from ssmlab.checkpoints.files import load_language_model
    from ssmlab.core.files import read_json
    from ssmlab.tasks.classify.predict import find_model
    from ssmlab.tasks.classify_sequence.task import load_classifier

    folder, note = find_model(Path(model))
    about = read_json(folder / "preprocess.json")
    if (folder / "head.json").is_file():
        network: Any = load_classifier(folder)[0]
    else:
        try:
            network = load_model(folder)[0]
        except ModelError:
            network = load_language_model(folder)
    network.preprocess_config = about | {"folder": str(folder)}
    opened = open_model(network)
    return opened._replace(folder=folder, note=note)


def _kind(model: Any) -> str:
    from ssmlab.models.language.names import LANGUAGE_MODELS
    from ssmlab.models.segmentation.names import SEGMENTATION_MODELS
    from ssmlab.tasks.classify_sequence.task import SequenceClassifier

    name = getattr(model, "registry_name", None)
    if isinstance(model, SequenceClassifier):
        return "sequence_classifier"
    if name in LANGUAGE_MODELS or (hasattr(model, "backbone") and hasattr(model, "lm_head")):
        return "language"
    if name in SEGMENTATION_MODELS:
        return "segmentation"
    return "vision" if name is not None or getattr(model, "default_cfg", None) else ""


def save(model: Any, folder: Path, about: dict[str, Any]) -> str:
    """Write a trained model so that `load_model` builds it again; why it cannot, where it cannot.

    A model of timm is saved as `timm/<name>`; of any other module the weights are written alone.
    """
    from safetensors.torch import save_file

    from ssmlab.checkpoints.files import save_language_model
    from ssmlab.core.files import write_json
    from ssmlab.tasks.classify_sequence.task import save_classifier
    from ssmlab.training.resume import contiguous

    about = {key: value for key, value in about.items() if key != "folder"}
    kind = _kind(model)
    if kind == "sequence_classifier":
        save_classifier(model, folder, about)
        return ""
    if kind == "language":
        save_language_model(model, folder)
        write_json(folder / "preprocess.json", about)
        return ""
    if getattr(model, "registry_name", None) is None and (rebuilt := _of_timm(model)) is not None:
        model.registry_name, model.config = rebuilt.registry_name, rebuilt.config
    if getattr(model, "registry_name", None) is not None:
        save_model(model, folder, about)
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(contiguous(model.state_dict()), folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "preprocess.json", about)
    return f"{folder} holds the weights alone: nothing says how {type(model).__name__} is built"


def _of_timm(model: Any) -> Any:
    """The model that `create_model` builds for one of timm's, where it has the same parameters; else None."""
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if not name or hasattr(model, "config"):
        return None
    first = next(model.parameters())
    try:
        rebuilt = create_model(
            f"timm/{name}", num_classes=model.num_classes, in_chans=first.shape[1] if first.ndim == 4 else 3
        )
    except UserError:
        return None
    shapes = [{key: tensor.shape for key, tensor in one.state_dict().items()} for one in (model, rebuilt)]
    return rebuilt if shapes[0] == shapes[1] else None
