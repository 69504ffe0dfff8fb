"""The model that somebody means in Python or on the command line, with what its inputs go through."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ssmlab.checkpoints.find import find_model, is_hybrid
from ssmlab.checkpoints.folder import load_model
from ssmlab.checkpoints.hybrids import Hybrid, load_hybrid
from ssmlab.core.errors import ModelError
from ssmlab.models.download import local_folder
from ssmlab.models.language.language_model import LanguageModel
from ssmlab.models.language.sequence_classifier import SequenceClassifier
from ssmlab.models.registry import kind_of
from ssmlab.tasks.classify.predict import published_network
from ssmlab.tasks.classify.python import made_for
from ssmlab.tasks.results import Fitted

TASK_OF = {
    "vision": "classify",
    "segmentation": "segment",
    "language": "language",
    "sequence_classifier": "classify_sequence",
    "translation": "translate",
    "vision_language": "vision_language",
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
        ModelError: there is no such model, or only its kind is known, not the weights.
    """
    if isinstance(model, Fitted):
        model = model.model
    if isinstance(model, nn.Module):
        kind, about = kind_of_network(model), dict(getattr(model, "preprocess_config", {}))
        if not about and kind == "vision":
            about = made_for(model)
        return Opened(model, about.get("task") or TASK_OF.get(kind, ""), about)
    if not isinstance(model, (str, Path)):
        raise ModelError(f"a model is a module, a folder or a name, got {type(model).__name__}")
    found = find_model(model, choose=True)
    if found.folder is None and found.kind == "vision":
        network, about = published_network(found.name, False)
        return Opened(network, "classify", about)
    if found.folder is None and found.kind != "language":
        raise ModelError(f"{found.name} is a name without weights; give the folder of a trained model")
    folder = found.folder or local_folder(found.name)
    if is_hybrid(folder):
        return Opened(load_hybrid(folder), "language", {"folder": str(folder)}, folder, found.note)
    network, _ = load_model(folder)
    return Opened(network, TASK_OF[found.kind], network.preprocess_config, folder, found.note)


def kind_of_network(model: Any) -> str:
    """The kind of a module, as `checkpoints.find` has them; "" where nothing says it."""
    if isinstance(model, SequenceClassifier):
        return "sequence_classifier"
    kind = kind_of(getattr(model, "registry_name", None))
    if isinstance(model, LanguageModel | Hybrid):
        return kind or "language"
    return kind or ("vision" if getattr(model, "default_cfg", None) else "")
