"""The arms of a comparison: sizes, files, costs."""

import json

import pytest
import torch
from torch.testing import assert_close

from ssmlab.checkpoints.files import load_language_model
from ssmlab.checkpoints.find import find_model
from ssmlab.checkpoints.folder import load_model, save_model
from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.models.registry import FAMILIES
from ssmlab.nn import quantize_linear_
from ssmlab.profiling import count_parameters
from ssmlab.profiling.language import pair_costs

ARMS = [family.name for family in FAMILIES if family.kind == "translation"]
every_arm = pytest.mark.parametrize("arm", ARMS)
ENCODERS = ("translation_transformer", "translation_mamba_encdec")


def on_meta(name, **options):
    with torch.device("meta"):
        return create_model(name, **options)


def build(name, **options):
    torch.manual_seed(0)
    return create_model(name, **options).eval()


@torch.no_grad()
def translated(model):
    random = torch.Generator().manual_seed(1)
    source, target = (torch.randint(3, 50, (2, length), generator=random) for length in (9, 7))
    return model(target, model.read_source(source))[0]


@pytest.mark.parametrize(
    ("size", "about", "vocabulary"),
    [("tiny", 3.9e6, 4000), ("small", 7.6e6, 8000), ("base", 60.5e6, 32000), ("paper", 77e6, 32000)],
)
def test_arms_of_a_size_have_the_same_number_of_parameters(size, about, vocabulary):
    counts = {arm: count_parameters(on_meta(f"{arm}_{size}")) for arm in ARMS}
    assert max(counts.values()) <= 1.02 * min(counts.values()), counts
    assert counts["translation_transformer"] == pytest.approx(about, rel=0.01)
    assert {on_meta(f"{arm}_{size}").config.vocab_size for arm in ARMS} == {vocabulary}
    assert count_parameters(on_meta(f"{ARMS[0]}_{size}", vocab_size=vocabulary)) == counts[ARMS[0]]


@every_arm
def test_a_folder_gives_the_same_model(arm, tmp_path):
    model = build(f"{arm}_test", vocab_size=50, dropout_branch=0.1, dropout_skip=0.05)
    about = {"task": "translate", "source": "en", "target": "fr", "separator_id": 1, "eos": 2}
    save_model(model, tmp_path, about)
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == "translation"
    found = find_model(tmp_path)
    assert (found.kind, found.name) == ("translation", f"{arm}_test")
    loaded, how = load_model(tmp_path, "translation")
    assert how == about and loaded.config == model.config and not loaded.training
    assert torch.equal(translated(loaded), translated(model))
    assert translated(loaded).shape[-1] == 50
    with pytest.raises(ModelError, match="is a translation model, a language model is needed; `ssmlab translate`"):
        load_model(tmp_path, "language")


@every_arm
def test_other_precisions(arm, tmp_path):
    model = build(f"{arm}_test")
    save_model(model, tmp_path, {})
    half = load_language_model(tmp_path, torch.bfloat16)
    assert half.backbone.embedding.weight.dtype == torch.bfloat16
    whole = translated(model)
    assert float((translated(half).float() - whole).abs().max()) < 0.05 * float(whole.abs().max())
    small = load_language_model(tmp_path, int8=True)
    assert_close(translated(small), translated(quantize_linear_(model)))


@every_arm
def test_a_pair_is_counted(arm):
    model = on_meta(f"{arm}_tiny")
    costs, rows = pair_costs(model, 20, 20), model.config.d_model * 4000
    assert costs.embeddings == rows and costs.parameters == count_parameters(model)
    # a decoder-only model works with all of its layers on both sides, an encoder-decoder with about half on each
    work = costs.counts.macs / (40 * (costs.parameters - rows) + 20 * rows)
    assert (0.4 < work < 0.8) if arm in ENCODERS else (0.9 < work < 1.3)
    assert costs.counts.macs > 10 * costs.step.macs
    grows = arm in ("translation_transformer", "translation_decoder", "translation_hybrid")
    assert (costs.growth_bytes > 0) == grows and costs.state_bytes > 0
