"""Mamba-3 language models: the original's arguments both ways, its block, and the activation of A."""

import json
from pathlib import Path

import pytest
import torch

from ssmlab.checkpoints import from_upstream
from ssmlab.checkpoints.files import load_language_model, save_language_model, to_upstream
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.models.registry import original
from ssmlab.nn import Mamba3
from ssmlab.tasks.synthetic.task import Recall

MANIFESTS = sorted((Path(__file__).parent.parent / "parity_data/manifests/mamba3").glob("*.json"))
SSM = {"layer": "Mamba3", "d_state": 8, "headdim": 8}
CONFIG = {"d_model": 16, "n_layer": 1, "vocab_size": 30, "ssm_cfg": SSM}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_entry_of_the_original_is_there_in_its_order(path):
    manifest = json.loads(path.read_text())
    with torch.device("meta"):
        model = original("mamba3").build(manifest["config"])
    found = [[name, list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in model.state_dict().items()]
    assert found == [entry[:3] for entry in manifest["entries"]]
    assert sum(p.numel() for p in model.parameters()) == manifest["parameters"]


@pytest.mark.parametrize(
    ("ssm", "rank"),
    [({}, None), ({"mimo_rank": 2}, None), ({"is_mimo": True}, 4), ({"is_mimo": True, "mimo_rank": 2}, 2)],
)
def test_the_rank_counts_only_with_mimo(ssm, rank):
    model = original("mamba3").build(CONFIG | {"ssm_cfg": SSM | ssm})
    assert model.config.mimo_rank == rank and model.registry_name == "mamba3_lm"
    block = original("mamba3").build({"d_model": 16, "d_state": 8, "headdim": 8} | ssm)
    assert isinstance(block, Mamba3) and block.mimo_rank == (rank or 1) and block.mimo == (rank is not None)


@pytest.mark.parametrize("name", ["mamba3_lm_test", "mamba3_mimo_lm_test"])
def test_the_originals_layout_and_back(name, tmp_path):
    torch.manual_seed(0)
    options = {"d_intermediate": 128} if "mimo" in name else {}
    model = create_model(name, mlp_multiple=128, **options).eval()
    ids = torch.randint(0, 61, (2, 7))
    folder = save_language_model(model, tmp_path, layout="state-spaces")
    written = json.loads((folder / "config.json").read_text())
    assert written["ssm_cfg"]["layer"] == "Mamba3"
    again = load_language_model(folder)
    assert torch.equal(again(ids)[0], model(ids)[0])
    config, state = to_upstream(model, "mamba3")
    assert torch.equal(from_upstream("mamba3", config, state)(ids)[0], model(ids)[0])


def test_weights_of_the_older_activation_are_kept_apart(tmp_path):
    model = create_model("mamba3_lm_test", A_activation="softplus").eval()
    with pytest.raises(ModelError, match="cannot hold a model with A_activation='softplus'"):
        save_language_model(model, tmp_path, layout="state-spaces")
    again = load_language_model(save_language_model(model, tmp_path))
    assert again.config.A_activation == again.backbone.layers[0].mixer.A_activation == "softplus"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (CONFIG | {"ssm_cfg": {"layer": "Mamba2"}}, "of Mamba2 layers, not of Mamba3"),
        (CONFIG | {"ssm_cfg": SSM | {"d_conv": 4}}, "ssm_cfg of the original has no d_conv"),
        ({"d_model": 16, "d_conv": 4}, "Mamba3 of the original has no d_conv"),
    ],
)
def test_what_the_original_does_not_know_is_refused(config, words):
    with pytest.raises(ModelError, match=words):
        original("mamba3").build(config)


def test_smoothed_labels_are_for_training_only():
    torch.manual_seed(0)
    model = create_model("mamba3_lm_test")
    tokens = torch.randint(0, 61, (3, 6))
    batch = {"tokens": tokens, "labels": torch.where(torch.rand(3, 6) < 0.5, tokens, -100)}
    plain, smooth = Recall(vocab_size=61), Recall(vocab_size=61, label_smoothing=0.3)
    assert torch.equal(smooth.loss(model.eval(), batch)[0], plain.loss(model, batch)[0])
    model.train()
    found, sums = smooth.loss(model, batch)
    logits, labels = model(tokens)[0][..., :61].log_softmax(-1), batch["labels"]
    asked = labels != -100
    own = -logits[asked].gather(1, labels[asked][:, None]).squeeze(1)
    torch.testing.assert_close(found, (0.7 * own - 0.3 * logits[asked].mean(1)).mean())
    assert torch.equal(sums, plain.loss(model, batch)[1])
