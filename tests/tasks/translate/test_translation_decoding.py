"""Lines and documents translated: as many lines as there were, in order, whatever the model makes of them."""

import numpy as np
import pytest
import torch

from ssmlab.data.pairs.subwords import EOS, PAD, SEP
from ssmlab.generation.options import BeamOptions
from ssmlab.models import create_model
from ssmlab.tasks.translate.decoding import Decoding


def network(name="translation_mamba_test", end=True):
    """In float64, with large weights, so that tokens differ; with `end` translations end by themselves."""
    torch.manual_seed(0)
    model = create_model(name, vocab_size=61).double().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.mul_(1 if key.endswith("dt_bias") else 3)
        if end:
            model.lm_head.weight[EOS] *= 3
    return model


def sources(count=13):
    random = np.random.default_rng(1)
    rows = [random.integers(3, 61, random.integers(1, 9)).tolist() for _ in range(count)]
    rows[0] = rows[4] = rows[-1] = []
    return rows


def fits(found, rows):
    """A line for every source, and none for one without tokens; not all are empty, nor all cut."""
    some = [one for one, row in zip(found, rows, strict=True) if row]
    assert all(one == ([], False) for one, row in zip(found, rows, strict=True) if not row)
    return any(one.tokens for one in some) and not all(one.cut for one in some)


def decoding(**options):
    return Decoding(separator=SEP, eos=EOS, suppress=(PAD,), **options)


@pytest.mark.parametrize("name", ["translation_mamba_test", "translation_transformer_test"])
@pytest.mark.parametrize("beams", [1, 3])
def test_lines_are_translated_each_for_itself(name, beams):
    model, rows, how = network(name), sources(), decoding(options=BeamOptions(beams=beams))
    found = how.lines(model, rows)
    assert fits(found, rows)
    assert [how.lines(model, [row])[0] for row in rows] == found
    assert all(not {PAD, SEP, EOS} & set(one.tokens) for one in found)
    assert all(one.cut == (len(one.tokens) == 2 * len(row) + 20) for one, row in zip(found, rows, strict=True) if row)


@pytest.mark.parametrize("group", [2, 5, 100])
def test_a_document_that_comes_back_with_another_number_of_lines_is_translated_line_by_line(group):
    """An untrained model puts separators anywhere: no line is lost all the same."""
    model, rows = network(), sources()
    found = decoding(group=group).lines(model, rows)
    assert fits(found, rows)


class Echo(torch.nn.Module):
    """Repeats its source, whose tokens are its state."""

    def __init__(self, lost=None):
        super().__init__()
        self.config, self.lost = type("Config", (), {"vocab_size": 61}), lost
        self.one = torch.nn.Parameter(torch.zeros(1))

    def read_source(self, source, mask=None):
        rows = [row[keep].tolist() for row, keep in zip(source, mask if mask is not None else source > -1, strict=True)]
        rows = [[token for token in row if token != self.lost] for row in rows]
        width = max(map(len, rows)) + 1
        text = torch.tensor([[*row, *[EOS] * (width - len(row))] for row in rows])
        return (text, torch.zeros(len(rows), 1, dtype=torch.int64))

    def forward(self, tokens, state, *, mask=None, last_only=False):
        text, at = state
        following = text.gather(1, at.clamp(max=text.shape[1] - 1))
        logits = torch.full((len(text), 1, 61), -10.0).scatter(2, following[..., None], 10.0)
        return logits, (text, at + 1)


@pytest.mark.parametrize("group", [1, 3, 5])
def test_a_document_is_read_as_one_and_its_lines_come_back(group):
    rows = sources()
    assert [one.tokens for one in decoding(group=group).lines(Echo(), rows)] == rows
    echo = Echo(lost=SEP)  # the lines of a document come back as one
    assert [one.tokens for one in decoding(group=group).lines(echo, rows)] == rows


@pytest.mark.parametrize("name", ["translation_mamba_test", "translation_mamba2_test", "translation_hybrid_test"])
def test_the_state_goes_on_from_line_to_line_and_not_to_the_next_document(name):
    model, rows, how = network(name), sources(), decoding(group=5, carry=True, options=BeamOptions(beams=2))
    found = how.lines(model, rows)
    assert fits(found, rows)
    for begin in range(0, len(rows), 5):
        assert how.lines(model, rows[begin : begin + 5]) == found[begin : begin + 5], "documents are alone"
    state = None
    with torch.no_grad():
        for row, one in zip(rows[5:10], found[5:10], strict=True):
            state = model.read_source(torch.tensor([row]), None, state)
            logits, _ = model(torch.tensor([[SEP, *one.tokens]]), state)
            best = logits[0, :-1].clone()
            if one is found[5]:
                first = best
            _, state = model(torch.tensor([[SEP, *one.tokens, EOS]]), state)
    assert first.shape[0] == len(found[5].tokens)
    alone = decoding(options=BeamOptions(beams=2)).lines(model, rows)
    assert alone[5] == found[5] and alone != found


def test_greedy_lines_of_a_carried_document_are_the_likeliest_tokens():
    model, rows = network(), sources()[5:10]
    found = decoding(group=5, carry=True).lines(model, rows)
    state = None
    with torch.no_grad():
        for row, one in zip(rows, found, strict=True):
            state = model.read_source(torch.tensor([row]), None, state)
            written = [SEP, *one.tokens, EOS]
            logits, state = model(torch.tensor([written]), state)
            logits[..., [PAD, SEP]] = -float("inf")
            likeliest = logits[0, :, :61].argmax(-1).tolist()
            assert likeliest[: len(one.tokens)] == one.tokens
            assert one.cut or likeliest[len(one.tokens)] == EOS
