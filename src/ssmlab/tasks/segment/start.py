"""Where a segmentation network's weights start: those of a file, without its heads."""

from pathlib import Path

from torch import nn

from ssmlab.core.errors import ModelError
from ssmlab.models.segmentation.umamba import from_trainer
from ssmlab.models.weights import fit, read_state_dict

HEADS = "seg_layers"  # in the names of the layers that give classes


def load_body(network: nn.Module, weights: Path) -> None:
    """Load everything but the layers that give classes, which start anew, as nnU-Net does with pretrained weights.

    Args:
        weights: a file of weights, the folder of a trained model, or a checkpoint of nnU-Net's trainer (.pth).
    Raises:
        ModelError: names or shapes disagree, as where the plan or the number of channels is another.
    """
    file = weights / "model.safetensors" if weights.is_dir() else weights
    state = from_trainer(file).state_dict() if file.suffix == ".pth" else read_state_dict(file)
    own = network.state_dict()
    if not any(HEADS in name for name in own):
        raise ModelError(f"{type(network).__name__} has no layer {HEADS}; its weights cannot start on other classes")
    body = {name: value for name, value in state.items() if HEADS not in name}
    fit(network, body | {name: value for name, value in own.items() if HEADS in name}, str(file))
