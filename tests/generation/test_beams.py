"""Beam search: what a search without a stop finds, what an exhaustive one finds, and every row as if alone."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from ssmlab.core.errors import ModelError
from ssmlab.generation.beams import beam_search
from ssmlab.generation.options import BeamOptions
from ssmlab.generation.prompt_state import PromptState
from ssmlab.models import create_model


class Chain:
    """The next token depends on the last two: quick, and whatever logits one likes."""

    def __init__(self, table):
        self.table, self.calls = table, []
        self.config = SimpleNamespace(vocab_size=table.shape[-1])

    def __call__(self, tokens, state):
        (last,) = state
        self.calls.append(len(tokens))
        return self.table[last, tokens[:, 0]][:, None], (tokens[:, 0],)

    def start(self, *rows):
        last = torch.tensor([row[-2:] for row in rows])
        return PromptState(tuple(map(tuple, rows)), self.table[last[:, 0], last[:, 1]], (last[:, 1],))


def chain(seed, vocab, scale=2.0, dtype=torch.float32):
    table = scale * torch.randn(vocab, vocab, vocab, generator=torch.Generator().manual_seed(seed))
    return Chain(table.to(dtype))


def plain(model, row, limit, beams, alpha, ends, nbest):
    """The definition, without a stop before the limit."""
    going, ended = [(0.0, [])], []
    for length in range(1, limit + 1):
        candidates = []
        for parent, (score, tokens) in enumerate(going):
            before = [*row, *tokens][-2:]
            logs = model.table[tuple(before)].double().log_softmax(0).tolist()
            candidates += [(score + log, parent, token) for token, log in enumerate(logs) if log > -torch.inf]
        candidates.sort(key=lambda one: (-one[0], *one[1:]))
        new = [(score, [*going[parent][1], token]) for score, parent, token in candidates]
        ended += [(score / length**alpha, tokens) for score, tokens in new[:beams] if tokens[-1] in ends]
        going = [one for one in new if one[1][-1] not in ends][:beams]
        if beams == 1 and ended:  # greedy search
            return ended
    ended += [(score / limit**alpha, tokens) for score, tokens in going]
    return sorted(ended, key=lambda one: -one[0])[:nbest]


@pytest.mark.parametrize("seed", range(40))
def test_a_search_that_stops_finds_what_one_without_a_stop_finds(seed):
    random = torch.Generator().manual_seed(seed)
    vocab, limit, beams = (
        int(torch.randint(low, high, (), generator=random)) for low, high in ((2, 9), (1, 9), (1, 6))
    )
    alpha, ends = (0.0, 0.6, 1.0, 2.0)[seed % 4], ((), (0,), (0, 1))[seed % 3]
    model, nbest = chain(seed, vocab), 1 + seed % beams
    rows = [[0, 1], [1, 1], [1, 0]]
    options = BeamOptions(beams=beams, nbest=nbest, length_penalty=alpha)
    found = beam_search(model, model.start(*rows), [limit] * 3, options, ends=ends)
    for row, hypotheses in zip(rows, found, strict=True):
        expected = plain(model, row, limit, beams, alpha, ends, nbest)
        assert [one.tokens for one in hypotheses] == [tokens for _, tokens in expected]
        assert [one.score for one in hypotheses] == pytest.approx([score for score, _ in expected], rel=1e-5)
        assert all(one.reason == ("eos" if one.tokens[-1] in ends else "length") for one in hypotheses)


def test_it_stops_as_soon_as_nothing_better_can_come():
    table = torch.zeros(3, 3, 3)
    table[..., 2] = 20.0  # the end, nearly for certain
    model = Chain(table)
    ((best,),) = beam_search(model, model.start([0, 0]), [50], BeamOptions(beams=2), ends=[2])
    assert best.tokens == [2] and model.calls == []
    table[..., 2] = -20.0
    ((best,),) = beam_search(model, model.start([0, 0]), [50], BeamOptions(beams=2), ends=[2])
    assert len(best.tokens) == 50 and len(model.calls) == 49


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0, 3.0])
def test_as_many_beams_as_texts_are_an_exhaustive_search(alpha):
    """Every text of up to four tokens of three, the last two of which may end it."""
    model, limit = chain(7, 3), 4
    texts = [list(text) for n in range(1, limit + 1) for text in itertools.product(range(3), repeat=n)]
    texts = [t for t in texts if not {1, 2} & set(t[:-1]) and (len(t) == limit or t[-1] in (1, 2))]

    def score(text):
        line = [0, 0, *text]
        logs = [model.table[line[i], line[i + 1]].double().log_softmax(0)[line[i + 2]] for i in range(len(text))]
        return float(sum(logs)) / len(text) ** alpha

    best = sorted(texts, key=score, reverse=True)
    options = BeamOptions(beams=len(texts), nbest=len(texts), length_penalty=alpha)
    (found,) = beam_search(model, model.start([0, 0]), [limit], options, ends=[1, 2])
    assert [one.tokens for one in found] == best
    assert [one.score for one in found] == pytest.approx(list(map(score, best)), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["mamba_lm_test", "mamba2_attention_lm_test"])
def test_one_beam_is_greedy_search(name, dtype):
    torch.manual_seed(0)
    model = create_model(name).eval().to(dtype)
    start = model.read([[i, i + 1] for i in range(20)])
    eos = start.logits[0].argmax().item()
    greedy = model.generate(start, max_tokens=12, eos=eos)
    found = beam_search(model, start, [12] * 20, BeamOptions(beams=1), ends=[eos])
    assert [one.tokens for (one,) in found] == [row.tokens for row in greedy]
    assert [one.reason for (one,) in found] == [row.reason for row in greedy]


def test_one_beam_is_greedy_where_probabilities_are_equal_in_float32():
    """Two logits that differ in the last bit, of nearly the same probability as all others, far into a text."""
    table = torch.full((3, 3, 3), 30.0)
    table[..., 2] = torch.tensor(30.0).nextafter(torch.tensor(31.0))
    model = Chain(table)
    ((best,),) = beam_search(model, model.start([0, 0]), [400], BeamOptions(beams=1))
    assert set(best.tokens) == {2}


def test_a_row_is_as_if_alone_in_any_batch_in_any_order():
    model = chain(3, 11)
    rows, limits = [[i, j] for i in range(6) for j in range(2)], [1, 5, 30, 2, 9, 3, 7, 1, 1, 4, 8, 6]
    options = BeamOptions(beams=4, nbest=3)
    together = beam_search(model, model.start(*rows), limits, options, ends=[3])
    for row, limit, found in zip(rows, limits, together, strict=True):
        assert beam_search(model, model.start(row), [limit], options, ends=[3]) == [found]
    backwards = beam_search(model, model.start(*rows[::-1]), limits[::-1], options, ends=[3])
    assert backwards == together[::-1]
    assert len({len(found[0].tokens) for found in together}) > 3


def test_finished_sentences_leave_with_all_their_texts():
    model = chain(5, 9)
    beam_search(model, model.start(*([i, i] for i in range(4))), [1, 2, 3, 6], BeamOptions(beams=3))
    assert model.calls == [9, 6, 3, 3, 3]


def test_the_best_texts_are_sorted_and_none_comes_twice():
    model = chain(1, 7)
    (found,) = beam_search(model, model.start([1, 2]), [6], BeamOptions(beams=6, nbest=6), ends=[0, 1])
    assert len({tuple(one.tokens) for one in found}) == 6
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert all(one.score == pytest.approx(sum(one.logprobs) / len(one.tokens)) for one in found)


def test_the_limit_of_one_token_and_a_vocabulary_smaller_than_the_beams():
    model = chain(2, 3)
    (found,) = beam_search(model, model.start([0, 1]), [1], BeamOptions(beams=8, nbest=8), ends=[1])
    order = model.table[0, 1].argsort(descending=True).tolist()
    assert [one.tokens for one in found] == [[token] for token in order]
    (found,) = beam_search(model, model.start([0, 1]), [3], BeamOptions(beams=8, nbest=8))
    assert [(one.tokens) for one in found] == [tokens for _, tokens in plain(model, [0, 1], 3, 8, 1.0, (), 8)]


def test_where_no_token_is_possible():
    model = chain(0, 3)
    found = beam_search(model, model.start([0, 0]), [5], BeamOptions(beams=2), suppress=[0, 1, 2])
    assert found == [[([], [], 0.0, "length")]]
    options = BeamOptions(beams=2, no_repeat_ngram=1)  # 0 was there, so 1 and 2 remain, in both orders
    (found,) = beam_search(model, model.start([0, 0]), [5], options)
    assert found[0].tokens in ([1, 2], [2, 1]) and found[0].reason == "length"
    two, (one,) = beam_search(model, model.start([0, 1], [0, 2]), [5, 5], options)[0], [[2]]
    assert [h.tokens for h in two] == [one]


def test_equal_scores_are_ordered_by_parent_then_token():
    model = Chain(torch.zeros(4, 4, 4))
    (found,) = beam_search(model, model.start([0, 0]), [2], BeamOptions(beams=4, nbest=4))
    assert [one.tokens for one in found] == [[0, 0], [0, 1], [0, 2], [0, 3]]


def test_no_ngram_comes_twice_and_what_is_suppressed_never():
    model = chain(4, 5, scale=6.0)
    (free,) = beam_search(model, model.start([0, 1]), [12], BeamOptions(beams=3))
    text = [0, 1, *free[0].tokens]
    assert len({tuple(text[i : i + 2]) for i in range(13)}) < 13
    rows = [[0, 1], [2, 2, 2, 3], [4, 3, 0]]
    options = BeamOptions(beams=3, nbest=3, no_repeat_ngram=2)
    together = beam_search(model, model.start(*rows), [12] * 3, options, suppress=[4])
    for row, found in zip(rows, together, strict=True):
        assert beam_search(model, model.start(row), [12], options, suppress=[4]) == [found]
        for one in found:
            assert 4 not in one.tokens
            text = [*row, *one.tokens]
            new = [tuple(text[i : i + 2]) for i in range(len(text) - 1)]
            begun = len(row) - 1  # what the row begins with is as it is
            assert len(set(new[begun:])) == len(new[begun:]) and not set(new[:begun]) & set(new[begun:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 0}, "beams must be a whole number of at least 1, got 0"),
        ({"beams": 2.0}, "beams must be a whole number"),
        ({"beams": 2, "nbest": 3}, "nbest=3 texts need as many beams, got beams=2"),
        ({"length_penalty": -1}, "length_penalty must be a number of at least 0, got -1"),
        ({"length_penalty": "a"}, "length_penalty must be a number of at least 0, got 'a'"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram must be a whole number of at least 0"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ModelError, match=message):
        BeamOptions(**options)


def test_logits_that_are_not_numbers_are_an_error():
    model = Chain(torch.full((3, 3, 3), torch.nan))
    with pytest.raises(ModelError, match="logits are not numbers"):
        beam_search(model, model.start([0, 0]), [3], BeamOptions())
