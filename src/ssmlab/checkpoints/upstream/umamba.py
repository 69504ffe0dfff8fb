"""U-Mamba (bowang-lab/U-Mamba): its plans, its names without their repetitions, and checkpoints of nnU-Net's trainers.

The original's modules hold one another, so that its state_dict has most tensors twice or four times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssmlab.core.errors import ModelError
from ssmlab.models.rules import Rule, convert
from ssmlab.models.segmentation.names import create_segmenter
from ssmlab.models.segmentation.plans import plan_from
from ssmlab.models.weights import UNREADABLE, fit, numpy_numbers, one_line

LICENSE = "Apache-2.0 (bowang-lab/U-Mamba)"
RULES = [
    Rule(r"(?:decoder\.(?=encoder\.))?(.*)\.all_modules\.0\.(.*)", r"\1.conv.\2", alias=True),
    Rule(r"(?:decoder\.(?=encoder\.))?(.*)\.all_modules\.1\.(.*)", r"\1.norm.\2", alias=True),
    Rule(r"decoder\.(encoder\..*)", r"\1", alias=True),
]

# The original's classes and its trainers', whose names begin so.
NETWORKS = {"UMambaBot": "umamba_bot", "UMambaEnc": "umamba_enc"}
FIXED = ("dynamic_network_architectures",)


def build(config: dict[str, Any]) -> nn.Module:
    """The network for a configuration of nnU-Net's plans, with the class's name as `network`, the number of channels
    as `num_input_channels` and of logits as `num_segmentation_heads`.

    Raises:
        ModelError: another network, or sizes that make none.
    """
    rest = {name: value for name, value in config.items() if name not in FIXED}
    try:
        network, in_chans, classes = (
            rest.pop(name) for name in ("network", "num_input_channels", "num_segmentation_heads")
        )
    except KeyError as error:
        raise ModelError(f"umamba: the configuration has no {error.args[0]}") from error
    plan = plan_from(rest)
    name, _, dims = str(network).partition("_")
    if name not in NETWORKS or dims not in ("", f"{plan.dims}d"):
        raise ModelError(f"umamba: network {network!r} for a plan in {plan.dims}-D; known are {', '.join(NETWORKS)}")
    return create_segmenter(NETWORKS[name], plan=plan, num_classes=classes, in_chans=in_chans)


def from_trainer(path: str | Path, configuration: str | None = None) -> nn.Module:
    """The network in a checkpoint of nnU-Net's trainer for U-Mamba, `checkpoint_final.pth`, in evaluation mode.

    The file holds the plans and the name of the trainer. It is read without running code that it holds.

    Args:
        configuration: of the plans; None takes the one that the file names.
    Raises:
        ModelError: no such file, one of another trainer, one that holds code, or weights that do not fit the plans.
    """
    content = _read(Path(path))
    try:
        weights, arguments, trainer = (content[name] for name in ("network_weights", "init_args", "trainer_name"))
        plan = plan_from(arguments["plans"], configuration or arguments["configuration"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path} is no checkpoint of nnU-Net's trainers: {error} is missing") from error
    found = [name for name in NETWORKS if name in trainer]
    if not found:
        raise ModelError(f"{path} was written by {trainer}; known are trainers of {', '.join(NETWORKS)}")
    state = {name.removeprefix("module.").removeprefix("_orig_mod."): value for name, value in weights.items()}
    try:
        in_chans = state["encoder.stem.0.conv1.weight"].shape[1]
        classes = state["decoder.seg_layers.0.weight"].shape[0]
    except KeyError as error:
        raise ModelError(f"{path} has no weight {error}, so it is not of U-Mamba") from error
    model = create_segmenter(NETWORKS[found[0]], plan=plan, num_classes=classes, in_chans=in_chans)
    fit(model, convert(state, RULES), str(path))
    return model.eval()


def _read(path: Path) -> dict[str, Any]:
    """nnU-Net logs numbers of numpy, which `weights_only` refuses unless they are named: they are values, not code."""
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path}")
    try:
        with torch.serialization.safe_globals(numpy_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ModelError(f"{path} holds code, or is no file of PyTorch: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no checkpoint of nnU-Net's trainers, it holds {type(content).__name__}")
    return content
