"""A search's tokens as native calls: the numbers of the modules, the state of any parent, and each row as if alone."""

import random

import pytest
import torch

from ssmlab.generation.beams import BeamDecoder, beam_search
from ssmlab.generation.decode_program import DecodeProgram
from ssmlab.generation.options import BeamOptions
from ssmlab.generation.translate import begin, translate_tokens
from ssmlab.models import create_model
from ssmlab.nn import quantize_linear_
from ssmlab.ops import _native
from ssmlab.ops.program import Program

pytestmark = pytest.mark.skipif(_native.LIBRARY is None, reason="needs the native library")
MODELS = [
    ("mamba_lm_test", {}),
    ("mamba_lm_test", {"bias": True, "d_conv": 1, "d_state": 5, "conv_bias": False, "tie_embeddings": False}),
    ("mamba_lm_test", {"d_state": 16, "d_model": 40, "dt_rank": 3, "vocab_size": 200}),
    ("mamba2_lm_test", {}),
    ("mamba2_lm_test", {"ngroups": 2, "d_state": 17, "bias": True}),
]


def made(name="mamba_lm_test", **options):
    torch.manual_seed(0)
    model = create_model(name, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and gains away from 0 and 1
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def relative(got, expected):
    return ((got - expected).double().norm() / expected.double().norm()).item()


def compared(model, sentences, beams, tokens=4):
    """The largest difference from the modules, called one by one, over some tokens of random parents."""
    start = begin(model, [[3, 4, 5 + i % 9] for i in range(sentences)], [[1]] * sentences)
    one, other = BeamDecoder(model).begin(start, beams), BeamDecoder(model).begin(start, beams)
    assert one.program is not None
    other.program, size, worst = None, model.config.vocab_size, 0.0
    parents, lines = torch.arange(sentences).repeat_interleave(beams), range(sentences)
    for _ in range(tokens):
        new = torch.randint(0, size, parents.shape)
        got, expected = one(new, parents, lines), other(new, parents, lines)
        worst = max(worst, relative(got[:, :size], expected))
        width, lines = len(parents) // len(lines), sorted(random.sample(range(len(lines)), max(1, len(lines) - 1)))
        parents = (width * torch.tensor(lines)[:, None] + torch.randint(0, width, (len(lines), beams))).flatten()
    return worst


@torch.no_grad()
@pytest.mark.parametrize("rows", [(1, 1), (1, 3), (4, 5), (9, 3)], ids=str)
@pytest.mark.parametrize(("name", "options"), MODELS, ids=str)
def test_the_numbers_are_those_of_the_modules(name, options, rows, instruction_set):
    assert compared(made(name, **options), *rows) < 2e-6


@torch.no_grad()
@pytest.mark.parametrize("integers", [False, True])
def test_int8_weights_too(integers, instruction_set, monkeypatch):
    """As floats the numbers of the modules; as integers of x rounded to 16 bits, 1 / 65,534 of a row's largest."""
    monkeypatch.setattr(_native, "integers", lambda: integers)
    assert compared(quantize_linear_(made(d_model=32)), 4, 3) < (2e-4 if integers else 2e-6)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 5), (33, 64), (512, 32), (1027, 70)])
@pytest.mark.parametrize("rows", [1, 7, 21])
def test_products_of_integers_are_exact(inputs, outputs, rows, instruction_set, monkeypatch):
    """Where x needs no rounding; what is no number stays none, and only in its row."""
    monkeypatch.setattr(_native, "integers", lambda: True)
    torch.manual_seed(0)
    x, bias, scale = torch.randint(-32767, 32768, (rows, inputs)).float(), torch.randn(outputs), torch.rand(outputs)
    x[:, 0], x[-1] = -32767, 0
    weight = torch.randint(-128, 128, (outputs, inputs), dtype=torch.int8)
    program, numbers = Program(rows, by_rows=True), torch.arange(rows)
    y = program.linear(x, weight, bias, scale)
    program.run_rows([], numbers, numbers, numbers, 1)
    expected = (x.double() @ weight.double().mT) * scale + bias
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=8.0)  # a unit of a sum of 1e8
    for wrong in (torch.nan, torch.inf):
        x[0, 0] = wrong
        program.run_rows([], numbers, numbers, numbers, 1)
        assert y[0].isnan().all() and y[1:].isfinite().all()


@torch.no_grad()
def test_a_row_is_the_same_to_the_bit_in_any_batch_and_at_any_number_of_threads():
    model = made(d_model=40)
    start = begin(model, [[3, 4, i] for i in range(3, 16)], [[1]] * 13)
    found, before = {}, torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for rows in (range(13), [5], [7, 5], range(4, 12)):
            decoder = BeamDecoder(model).begin(start.select(list(rows)), 2)
            parents = torch.arange(len(rows)).repeat_interleave(2)
            decoder(torch.arange(3, 3 + len(parents)) * 0 + 7, parents, range(len(rows)))
            logits = decoder(torch.full((2 * len(rows),), 9), torch.arange(2 * len(rows)), range(len(rows)))
            found[threads, str(rows)] = logits[2 * list(rows).index(5)].clone()
    torch.set_num_threads(before)
    assert len(found) == 12 and len({tuple(row.tolist()) for row in found.values()}) == 1


@torch.no_grad()
def test_the_search_is_the_same_and_the_start_stays(monkeypatch):
    model = made("mamba2_lm_test")
    start = begin(model, [[3, 4], [5, 6], [7, 8]], [[1]] * 3)
    kept = [tensor.clone() for layer in start.state for tensor in layer]
    options = BeamOptions(beams=4, nbest=2)
    fast = beam_search(model, start, [9, 3, 6], options, ends=[2])
    assert fast == beam_search(model, start, [9, 3, 6], options, ends=[2])
    assert all(map(torch.equal, kept, (tensor for layer in start.state for tensor in layer)))
    monkeypatch.setenv("SSMLAB_BACKEND", "chunked")
    slow = beam_search(model, start, [9, 3, 6], options, ends=[2])
    assert [[one.tokens for one in texts] for texts in fast] == [[one.tokens for one in texts] for texts in slow]


@torch.no_grad()
def test_a_search_after_another_is_as_if_it_were_the_first(monkeypatch):
    model, sources = made(d_model=40), [[3] * n for n in (1, 2, 30, 4, 40, 6)]
    options = {"separator": 1, "eos": 2, "max_tokens": 7, "batch_tokens": 50}
    built, of = [], DecodeProgram.of

    def counted(model, rows, classes, *, by_rows=False):
        built.append(rows if by_rows else 0)
        return of(model, rows, classes, by_rows=by_rows)

    monkeypatch.setattr(DecodeProgram, "of", counted)
    together = list(translate_tokens(model, sources, **options))
    assert [rows for rows in built if rows] == [10]  # two sentences and five beams are the most
    monkeypatch.undo()
    assert [[one.tokens for one in found] for found in together] == [
        [one.tokens for one in next(translate_tokens(model, [source], **options))] for source in sources
    ]


@torch.no_grad()
def test_changed_weights_are_seen_by_the_next_search():
    model = made()
    first = next(translate_tokens(model, [[3, 4, 5]], separator=1, eos=2, max_tokens=8))
    model.lm_head.weight.data.neg_()
    assert next(translate_tokens(model, [[3, 4, 5]], separator=1, eos=2, max_tokens=8)) != first


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options", "change"),
    [("mamba2_attention_lm_test", {}, None), ("mamba_lm_test", {"d_intermediate": 8}, None),
     ("mamba_lm_test", {}, torch.nn.Module.bfloat16), ("mamba_lm_test", {}, torch.nn.Module.double),
     ("mamba_lm_test", {}, lambda model: model.backbone.layers[0].register_forward_hook(lambda *_: None))],
    ids=["attention", "mlp", "bfloat16", "float64", "hook"],
)  # fmt: skip
def test_other_models_are_called_module_by_module(name, options, change):
    model = made(name, **options)
    if change:
        change(model)
    start = begin(model, [[3, 4, 5]], [[1]])
    assert BeamDecoder(model).begin(start, 3).program is None
    ((best,),) = beam_search(model, start, [3], BeamOptions(beams=2))
    assert len(best.tokens) == 3


def test_with_gradients_the_model_is_called():
    model = made()
    start = begin(model, [[3, 4, 5]], [[1]])
    assert BeamDecoder(model).begin(start, 3).program is None
