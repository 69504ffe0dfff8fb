"""Translation of token lists: order, batches, limits, prefixes, and the scores of given translations."""

import random

import numpy as np
import pytest
import torch

from ssmlab.core.errors import ModelError
from ssmlab.generation import translate as module
from ssmlab.generation.options import BeamOptions
from ssmlab.generation.translate import begin, in_order, score_tokens, translate_tokens
from ssmlab.models import create_model, list_models

SEP, EOS = 1, 2
MARKS = {"separator": SEP, "eos": EOS}


def made(name="translation_mamba_test", dtype=torch.float64, **options):
    """In float64, so that equal means equal; large weights, so that tokens differ; the end is likely."""
    torch.manual_seed(0)
    model = create_model(name, **options).to(dtype).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.mul_(1 if key.endswith("dt_bias") else 3)
        if "transformer" not in name:
            model.lm_head.weight[EOS] *= 3
    return model


def sources(count=20, longest=17, seed=0):
    draw = random.Random(seed)
    rows = [[draw.randrange(3, 61) for _ in range(draw.randint(1, longest))] for _ in range(count)]
    rows[1] = rows[-1] = []
    return rows


def rounded(found):
    return [[(one.tokens, one.reason, pytest.approx(one.score, rel=1e-9)) for one in texts] for texts in found]


@pytest.mark.parametrize("name", [name for name in list_models("translation") if name.endswith("_test")])
def test_a_translation_is_the_same_alone_in_any_batch_and_in_any_order(name):
    model, rows = made(name), sources()
    options = BeamOptions(beams=3, nbest=2)
    whole = list(translate_tokens(model, rows, **MARKS, options=options))
    assert len(whole) == 20 and len({tuple(found[0].tokens) for found in whole}) > 4
    assert whole[1] == whole[-1] == [([], [], 0.0, "eos")]
    for batch_tokens in (1, 100, 10**6):
        assert rounded(translate_tokens(model, rows, **MARKS, options=options, batch_tokens=batch_tokens)) == rounded(
            whole
        )
    arrays = [np.array(row, np.int32) for row in rows]
    assert rounded(translate_tokens(model, arrays, **MARKS, options=options)) == rounded(whole)
    order = random.Random(1).sample(range(20), 20)
    shuffled = list(translate_tokens(model, [rows[i] for i in order], **MARKS, options=options))
    assert [rounded([found]) for found in shuffled] == [rounded([whole[i]]) for i in order]


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in list_models("translation") if name.endswith("_test")])
def test_it_begins_after_the_source_and_the_separator(name):
    """Read at once where a translation goes on from its source, else one after the other."""
    model, rows = made(name), [row for row in sources() if row][:5]
    start = begin(model, rows, [[SEP]] * 5)
    for i, row in enumerate(rows):
        logits, _ = model(torch.tensor([[SEP]]), model.read_source(torch.tensor([row])))
        torch.testing.assert_close(start.logits[i], logits[0, -1], rtol=1e-9, atol=1e-9)


def test_the_longest_translation():
    model = made(vocab_size=40)
    rows = [[3] * n for n in (1, 7, 30)]
    never = {"suppress": [EOS], "options": BeamOptions(beams=2)}
    assert [len(found[0].tokens) for found in translate_tokens(model, rows, **MARKS, **never)] == [22, 34, 80]
    short = translate_tokens(model, rows, **MARKS, **never, max_tokens=3)
    assert [(len(found[0].tokens), found[0].reason) for found in short] == [(3, "length")] * 3
    for key in ("max_tokens", "batch_tokens"):
        with pytest.raises(ModelError, match=f"{key} must be a whole number of at least 1, got 0"):
            translate_tokens(model, rows, **MARKS, **{key: 0})


def test_scores_of_given_translations_are_those_of_the_search():
    model, rows = made(), sources()[2:-1]
    found = [texts[0] for texts in translate_tokens(model, rows, **MARKS, options=BeamOptions(beams=2))]
    ended = [(row, one) for row, one in zip(rows, found, strict=True) if one.reason == "eos"]
    assert len(ended) > 5
    for batch_tokens in (1, 10**6):
        pairs = [(row, one.tokens[:-1]) for row, one in ended]
        logs = list(score_tokens(model, pairs, **MARKS, batch_tokens=batch_tokens))
        assert [pytest.approx(own, rel=1e-9) for own in logs] == [one.logprobs for _, one in ended]
    ((alone,),) = score_tokens(model, [(rows[0], [])], **MARKS)
    with torch.no_grad():
        logits, _ = model(torch.tensor([[*rows[0], SEP]]))
    assert alone == pytest.approx(float(logits[0, -1].log_softmax(0)[EOS]))


def test_a_prefix_is_read_and_the_rest_is_what_follows_it():
    model, (row,) = made(), sources(5)[2:3]
    ((free,),) = translate_tokens(model, [row], **MARKS, options=BeamOptions(beams=1), suppress=[EOS])
    ((rest,),) = translate_tokens(
        model, [row], **MARKS, options=BeamOptions(beams=1), prefix=free.tokens[:4], suppress=[EOS]
    )
    assert rest.tokens == free.tokens[4:]


def test_results_are_handed_out_in_order_as_soon_as_they_are_there():
    seen = []

    def work(batch):
        seen.append(batch)
        return [10 * item for item in batch]

    read = []

    def items():
        for item in (5, 3, 0, 4, 200, 0, 1, 2, 30, 30, 31):
            read.append(item)
            yield item

    results = in_order(items(), lambda item: item, work, 60)
    assert next(results) == 50 and read == [5, 3, 0]
    assert list(results) == [30, 0, 40, 2000, 0, 10, 20, 300, 300, 310]
    assert seen[:2] == [[0], [3, 5]]
    for batch in seen:
        assert len(batch) == 1 or len(batch) * max(module.LEAST, max(batch)) <= 60
        assert 0 not in batch or not any(batch)
    assert list(in_order([], len, work, 60)) == []


def test_models_and_tokens_that_do_not_fit():
    model = made()
    with pytest.raises(ModelError, match=r"tokens 0 to 60, the text has \[61\]; is the tokenizer its own"):
        begin(model, [[61]], [[SEP]])
    with pytest.raises(ModelError, match="Linear is no translation model"):
        next(translate_tokens(torch.nn.Linear(1, 1), [[3]], **MARKS))
