"""Adapters on translation models: embeddings and attention to the source too, checked, and merged."""

import pytest
import torch
from torch.testing import assert_close

from ssmlab import adapt
from ssmlab.models import create_model

MODELS = ("translation_transformer_test", "translation_mamba_encdec_test", "translation_hybrid_test")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["projections", "projections+embeddings"])
def test_lora_acts_everywhere_and_is_merged(name, method):
    torch.manual_seed(0)
    model = create_model(name).eval()
    random = torch.Generator().manual_seed(1)
    source, target = (torch.randint(3, 61, (2, length), generator=random) for length in (9, 7))
    before = model(target, model.read_source(source))[0].detach()
    adapted = adapt.apply(model, method, rank=2)
    report = adapt.check(model)
    report.raise_for_inert()
    if name != "translation_hybrid_test":
        assert any("cross.block.kv_proj" in trained for trained in adapted.adapted)
    assert_close(model(target, model.read_source(source))[0].detach(), before)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    changed = model(target, model.read_source(source))[0].detach()
    assert not torch.allclose(changed, before, atol=1e-3)
    merged = adapt.merge(model)
    assert merged.state_dict().keys() == create_model(name).state_dict().keys()
    assert_close(merged(target, merged.read_source(source))[0].detach(), changed, rtol=1e-4, atol=1e-5)
