"""An ensemble is the mean of its members' probabilities, each member with its own normalisation."""

import json

import pytest
import torch
from torch import nn

from ssmlab.checkpoints.folder import load_model, save_ensemble, save_model
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.models.ensemble import Ensemble, Normalised, mean_logits


def about(mean, **more):
    return {"image_size": 32, "fit": "crop", "mean": mean, "std": [0.2, 0.3, 0.4], "classes": ["a", "b", "c"],
            "channels": 3} | more  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    for i, name in enumerate(("resnet_test", "resnet_mamba_test", "resnet_test")):
        torch.manual_seed(i)
        model = create_model(name, num_classes=3, image_size=32).eval()
        save_model(model, root / str(i), about([0.5, 0.4, 0.3 + 0.1 * i]))
    return root


@pytest.mark.parametrize("several", [False, True])
def test_logits_of_a_mean(several):
    torch.manual_seed(0)
    logits = [torch.randn(4, 3) * 9 for _ in range(5)]
    function = torch.sigmoid if several else (lambda x: x.softmax(1))
    wanted = torch.stack([function(each.double()) for each in logits]).mean(0)
    assert torch.allclose(function(mean_logits(logits, several).double()), wanted, atol=1e-6)


def test_members_read_images_with_their_own_mean(folders, tmp_path):
    save_ensemble(tmp_path / "all", [folders / str(i) for i in range(3)])
    network, how = load_model(tmp_path / "all", "vision")
    assert isinstance(network, Ensemble) and how["mean"] == [0.5, 0.4, 0.3]
    pixels = torch.rand(2, 3, 32, 32)
    wanted = 0.0
    for i in range(3):
        member, own = load_model(folders / str(i))
        mean, std = (torch.tensor(own[key])[:, None, None] for key in ("mean", "std"))
        wanted = wanted + member((pixels - mean) / std).softmax(1) / 3
    mean, std = (torch.tensor(how[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        found = network((pixels - mean) / std).softmax(1)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_an_ensemble_of_ensembles_has_their_members(folders, tmp_path):
    save_ensemble(tmp_path / "two", [folders / "0", folders / "1"])
    save_ensemble(tmp_path / "three", [tmp_path / "two", folders / "2"])
    network, _ = load_model(tmp_path / "three")
    assert len(network.members) == 3 and not any(isinstance(member, Ensemble) for member in network.members)


def test_what_makes_no_ensemble(folders, tmp_path):
    with pytest.raises(ModelError, match="needs two different models at least, got 1"):
        save_ensemble(tmp_path / "x", [folders / "0", folders / "0"])
    model = create_model("resnet_test", num_classes=3, image_size=32)
    save_model(model, tmp_path / "other", about([0.5] * 3, classes=["a", "b", "x"]))
    with pytest.raises(ModelError, match="has classes .*; members must agree"):
        save_ensemble(tmp_path / "x", [folders / "0", tmp_path / "other"])
    save_ensemble(tmp_path / "gone", [folders / "0", folders / "1"])
    stored = json.loads((tmp_path / "gone" / "config.json").read_text())
    (tmp_path / "gone" / "config.json").write_text(json.dumps(stored | {"members": ["nowhere", "there"]}))
    with pytest.raises(ModelError, match="2 of its members are missing"):
        load_model(tmp_path / "gone")
    network = Ensemble([nn.Identity(), nn.Identity()], [Normalised((), ())] * 2)
    with pytest.raises(ModelError, match="no weights of its own"):
        save_model(network, tmp_path / "y")
