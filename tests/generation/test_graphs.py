"""Decoding with recorded steps: the buffers, on the CPU, where nothing is recorded but run again; graphs on a GPU."""

import pytest
import torch

from ssmlab.core.errors import ModelError
from ssmlab.generation import generate as generation
from ssmlab.generation import graphs
from ssmlab.generation.prompt_state import read, select_rows
from ssmlab.models import create_model

MODELS = ["mamba_lm_test", "mamba2_lm_test", "mamba3_lm_test", "mamba3_mimo_lm_test", "s4d_lm_test"]
PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]]


def run_again(run):
    """In the place of a recording."""
    run()
    return run


def fails(run):
    raise RuntimeError("operation not permitted when stream is capturing\nmore of it")


def made(name="mamba_lm_test", device="cpu"):
    torch.manual_seed(0)
    return create_model(name).eval().to(device)


@pytest.fixture
def decoders(monkeypatch):
    """Every decoder that `generate` makes, which records by `decoders.capture`."""
    found = []

    def decoder(model, wanted, tokens, device):
        found.append(graphs.Decoder(model, wanted, tokens, device, decoder.capture))
        return found[-1]

    decoder.capture = run_again
    decoder.found = found
    monkeypatch.setattr(generation, "Decoder", decoder)
    return decoder


@pytest.mark.parametrize("name", MODELS)
def test_buffers_change_no_token(name, decoders):
    model = made(name)
    options = {"max_tokens": 12, "temperature": 1.0, "seed": [1, 2, 3, 4]}
    plain = model.generate(PROMPTS, graphs=False, **options)
    assert decoders.found[-1].step is None
    assert model.generate(PROMPTS, graphs=True, **options) == plain
    assert decoders.found[-1].step.rows == 4


@torch.no_grad()
def test_rows_that_end_leave_and_from_half_on_a_smaller_step_is_recorded():
    model = made()
    decoder = graphs.Decoder(model, True, 9, torch.device("cpu"), run_again)
    state, ids, sizes = read(model, PROMPTS).state, torch.tensor([[1], [2], [3], [4]]), []
    for left in ([0, 1, 2, 3], [1, 2, 3], [0, 1, 2], [0, 2], [0, 1], [1]):
        ids, state = ids[left], select_rows(state, torch.tensor(left))
        wanted, expected = model(ids, state)
        logits, state = decoder(ids, state)
        torch.testing.assert_close(logits, wanted)
        for layer, other in zip(state, expected, strict=True):
            torch.testing.assert_close(tuple(layer), tuple(other))
        sizes.append(decoder.step.rows)
    assert sizes == [4, 4, 4, 2, 2, 1]


def test_texts_that_end_early(decoders):
    model = made()
    options = {"max_tokens": 30, "temperature": 2.0, "seed": [1, 2, 3, 4], "eos": 3}
    plain = model.generate(PROMPTS, graphs=False, **options)
    assert len({len(row.tokens) for row in plain}) > 1
    assert model.generate(PROMPTS, graphs=True, **options) == plain


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_a_static_step_is_the_models(name):
    model = made(name)
    reading = read(model, PROMPTS)
    kept = [part.clone() for layer in reading.state for part in layer]
    step, state, expected = graphs.StaticStep(model, reading.state, run_again), reading.state, reading.state
    for token in (3, 5, 7):
        ids = torch.full((4, 1), token)
        logits, state = step(ids, state)
        wanted, expected = model(ids, expected)
        assert torch.equal(logits, wanted)
        for layer, other in zip(state, expected, strict=True):
            assert all(map(torch.equal, layer, other))
    assert all(map(torch.equal, kept, [part for layer in reading.state for part in layer]))


def test_a_step_that_cannot_be_recorded_is_not(decoders, caplog):
    model = made()
    plain = model.generate(PROMPTS, max_tokens=9, graphs=False)
    decoders.capture = fails
    with pytest.raises(ModelError, match="cannot be recorded: operation not permitted"):
        model.generate(PROMPTS, max_tokens=9, graphs=True)
    assert model.generate(PROMPTS, max_tokens=9) == plain
    assert "without a CUDA graph: operation not permitted when stream is capturing" in caplog.text


def test_attention_grows_and_is_not_recorded(decoders, caplog):
    model = made("mamba2_attention_lm_test")
    assert len(model.generate(PROMPTS, max_tokens=9)) == 4
    assert decoders.found[-1].step is None and "layer 1's state goes from" in caplog.text


def test_when_it_is_asked(decoders, monkeypatch):
    model = made()
    for tokens, recorded in ((graphs.FEWEST - 1, False), (graphs.FEWEST, True)):
        model.generate(PROMPTS, max_tokens=tokens)
        assert decoders.found[-1].recording is recorded
    monkeypatch.setenv(graphs.SWITCH, "0")
    model.generate(PROMPTS, max_tokens=9)
    assert not decoders.found[-1].recording


def test_nothing_is_recorded_on_a_cpu():
    model = made()
    with pytest.raises(ModelError, match="the model is on cpu"):
        model.generate(PROMPTS, max_tokens=9, graphs=True)
    assert not graphs.Decoder(model, None, 9, torch.device("cpu")).recording


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("name", MODELS)
def test_a_recorded_step_writes_the_same_tokens(name):
    model = made(name, "cuda")
    options = {"max_tokens": 20, "temperature": 1.0}
    assert model.generate(PROMPTS, graphs=True, **options) == model.generate(PROMPTS, graphs=False, **options)
