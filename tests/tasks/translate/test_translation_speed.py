"""Writing given tokens: a state of fixed size stays as large as it was, a cache grows with what was written."""

import pytest
import torch

from ssmlab.models import create_model
from ssmlab.tasks.translate.speed import decoding_records, state_bytes, write_forced


def found(name, lengths=(8, 32), **options):
    records = decoding_records(create_model(f"{name}_test"), 1, lengths, **options)
    return {(record.metric, int(record.class_.split()[1])): record for record in records}


def test_the_state_of_mamba_does_not_grow_and_that_of_attention_does():
    mamba, decoder = found("translation_mamba"), found("translation_decoder")
    assert mamba["decoding_memory", 8].value == mamba["decoding_memory", 32].value > 0
    # 32 tokens of the source, 8 before the clock runs, and those that are written
    assert decoder["decoding_memory", 32].value / decoder["decoding_memory", 8].value == pytest.approx(
        72 / 48, rel=0.05
    )
    assert found("translation_mamba", rows=3)["decoding_memory", 8].value == 3 * mamba["decoding_memory", 8].value


@pytest.mark.parametrize("name", ["translation_mamba", "translation_transformer", "translation_mamba_encdec"])
def test_every_length_is_timed(name):
    records = found(name, lengths=(32, 8))
    assert [length for metric, length in records if metric == "decoding_seconds"] == [8, 32]
    assert all(record.value > 0 for (metric, _), record in records.items() if metric != "decoding_growth")
    assert all(record.value >= 0 for record in records.values())


def test_a_model_is_left_in_its_mode_and_forced_tokens_are_read_one_by_one():
    model = create_model("translation_mamba_test").train()
    assert decoding_records(model, 1, ()) == [] and model.training
    model.eval()
    source, target = torch.randint(61, (2, 5)), torch.randint(61, (2, 9))
    state, seconds = write_forced(model, model.read_source(source), target)
    whole = model(target, model.read_source(source))[1]
    flat = [torch.cat([part.flatten() for layer in s for part in layer]) for s in (state, whole)]
    assert torch.allclose(*flat, atol=1e-5) and seconds > 0


def test_a_storage_counts_once():
    base = torch.zeros(10, 4)
    assert state_bytes((base[:2], (base[5:], [torch.zeros(3)]))) == 160 + 12
