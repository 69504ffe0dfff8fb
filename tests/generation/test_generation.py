"""Writing on: every row as if alone, readings as values, Hugging Face's choices, beam search, stop strings."""

import itertools

import pytest
import torch

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.generation.generate import generate
from ssmlab.generation.sampling import Sampling
from ssmlab.models import create_model, list_models

SMALL = [name for name in list_models("language") if name.endswith("_test")]
PROMPTS = [[1, 2, 3, 4, 5], [7], [9, 8, 7]]
SAMPLED = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2}
each_model = pytest.mark.parametrize("name", SMALL)


def build(name, seed=0, **options):
    """In float64, so that equal means equal; large weights, and steps that do not vanish, so that tokens differ."""
    torch.manual_seed(seed)
    model = create_model(name, **options).double().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.mul_(1 if key.endswith("dt_bias") else 3)
    return model


def decode(tokens):
    """A text in which tokens have different lengths: 3 is "abc|", 7 is "abcdefg|", 30 is "|"."""
    return "".join("abcdefghijklmnopqrstuvwxyz"[: token % 30] + "|" for token in tokens)


@torch.no_grad()
def log_probability(model, prompt, new):
    logits, _ = model(torch.tensor([[*prompt, *new]]))
    logs = logits[0, len(prompt) - 1 : -1, : model.config.vocab_size].log_softmax(-1)
    return float(logs.gather(1, torch.tensor(new)[:, None]).sum())


@each_model
@pytest.mark.parametrize("options", [{}, SAMPLED | {"seed": 3}, {"beams": 3}], ids=["greedy", "sampled", "beams"])
def test_a_batch_of_unequal_prompts_equals_each_alone(name, options):
    model = build(name)
    together = model.generate(PROMPTS, max_tokens=8, decode=decode, **options)
    assert len({tuple(row.tokens) for row in together}) == 3
    for prompt, row in zip(PROMPTS, together):
        (alone,) = model.generate([prompt], max_tokens=8, decode=decode, **options)
        assert (alone.tokens, alone.text, alone.reason) == (row.tokens, row.text, "length")
        assert row.text == decode(row.tokens) and len(row.tokens) == 8
        assert row.score == pytest.approx(log_probability(model, prompt, row.tokens), rel=1e-9)
        assert alone.score == pytest.approx(row.score, rel=1e-9)


@each_model
def test_greedy_takes_the_likeliest_token_of_a_whole_pass(name):
    model = build(name)
    (row,) = model.generate([PROMPTS[0]], max_tokens=6)
    for i, token in enumerate(row.tokens):
        logits, _ = model(torch.tensor([PROMPTS[0] + row.tokens[:i]]))
        assert token == int(logits[0, -1, :61].argmax())


@each_model
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_a_prompt_read_in_pieces_and_in_parts_is_the_same_prompt(name, chunk):
    model = build(name)
    whole = model.read(PROMPTS)
    parts = model.read([[3, 4, 5], [], [7]], model.read([[1, 2], [7], [9, 8]], chunk=chunk), chunk=chunk)
    assert parts.tokens == whole.tokens == tuple(map(tuple, PROMPTS))
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-9, atol=1e-9)
    new = [row.tokens for row in model.generate(whole, max_tokens=5)]
    assert new == [row.tokens for row in model.generate(parts, max_tokens=5)]
    assert new == [row.tokens for row in model.generate(PROMPTS, max_tokens=5, chunk=chunk)]


def test_a_prompt_costs_one_chunk_and_one_logit():
    model, seen = build("mamba_lm_test"), []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    model.lm_head.register_forward_pre_hook(lambda module, inputs: seen.append(-inputs[0].shape[1]))
    model.read([[1] * 25, [2] * 3], chunk=10)
    assert seen == [10, -1, 10, -1, 5, -1]


@each_model
def test_forked_readings_are_independent(name):
    model = build(name)
    reading = model.read([PROMPTS[0]])
    before = [tensor.clone() for layer in reading.state for tensor in layer]
    forks = reading.select([0, 0, 0])
    drawn = model.generate(forks, max_tokens=8, temperature=1.0, seed=[1, 2, 1])
    assert drawn[0].tokens == drawn[2].tokens != drawn[1].tokens
    # Intel's MKL rounds the third of three rows of a product otherwise than the first.
    assert drawn[0].logprobs == pytest.approx(drawn[2].logprobs, rel=1e-12)
    assert forks.select([1]).tokens == reading.tokens == (tuple(PROMPTS[0]),)
    for tensor in (tensor for layer in forks.state for tensor in layer):
        tensor.zero_()
    assert all(torch.equal(*pair) for pair in zip(before, (t for layer in reading.state for t in layer)))
    questions = model.read([[5], [6]], reading)  # one text, two ways on
    assert questions.tokens == ((*PROMPTS[0], 5), (*PROMPTS[0], 6))
    expected = model.generate([PROMPTS[0] + [5], PROMPTS[0] + [6]], max_tokens=5)
    assert [row.tokens for row in model.generate(questions, max_tokens=5)] == [row.tokens for row in expected]


def test_seeds_are_reproducible_and_rows_have_their_own():
    model = build("mamba_lm_test")
    first, again, other = (
        [row.tokens for row in model.generate(PROMPTS, max_tokens=10, temperature=1.0, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again and all(a != b for a, b in zip(first, other))
    apart = model.generate(PROMPTS, max_tokens=10, temperature=1.0, seed=[1, 2, 1])
    assert [row.tokens for row in apart] == [first[0], other[1], first[2]]
    state = torch.random.get_rng_state()
    model.generate(PROMPTS, max_tokens=2, temperature=1.0)
    assert torch.equal(state, torch.random.get_rng_state())
    with pytest.raises(ModelError, match="one for each of the 3 rows, got 2"):
        model.generate(PROMPTS, seed=[1, 2])


def test_draws_have_the_models_probabilities():
    model = build("mamba_lm_test", vocab_size=5)
    reading = model.read([[1, 2]])
    drawn = model.generate(reading.select([0] * 4000), max_tokens=1, temperature=2.0, seed=range(4000))
    counts = torch.bincount(torch.tensor([row.tokens[0] for row in drawn]), minlength=5)
    expected = 4000 * (reading.logits[0, :5] / 2).softmax(0)
    chi_square = float(((counts - expected).square() / expected).sum())
    assert chi_square < 18.5  # 0.1 % of right samplers are above it, with 4 degrees of freedom


def test_processors_limit_what_is_drawn():
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]])
    text = torch.tensor([[0, 4]])
    for options, left in (
        ({"top_k": 2}, [0, 1]),
        ({"top_p": 0.7}, [0, 1]),
        ({"min_p": 0.1}, [0, 1, 2]),
        ({"top_p": 0.5}, [0]),
        ({"temperature": 5.0, "top_p": 0.5}, [0, 1]),
    ):
        processed = Sampling(**({"temperature": 1.0} | options)).processor()(text, scores.clone())
        assert processed[0].isfinite().nonzero()[:, 0].tolist() == left, options
    penalised = Sampling(repetition_penalty=2.0).processor()(text, scores.clone())
    assert penalised.tolist() == [[1.5, 2.0, 1.0, 0.0, -2.0]]
    assert Sampling().processor() is None


@pytest.mark.parametrize("name", ["mamba_lm_test", pytest.param("mamba2_lm_test", marks=pytest.mark.slow)])
def test_equal_to_hugging_faces_generation(name, tmp_path):
    """Greedy, with a penalty, and beam search; a vocabulary without rounding, since theirs has no other."""
    from transformers import AutoModelForCausalLM

    from ssmlab.checkpoints.files import save_language_model

    for seed in range(4):
        model = build(name, seed, vocab_size=64).float()
        theirs = AutoModelForCausalLM.from_pretrained(
            save_language_model(model, tmp_path / str(seed), layout="huggingface")
        )
        free = model.generate(PROMPTS[:1], max_tokens=8, beams=3)[0].tokens
        for beams, eos, penalty in itertools.product((1, 2, 3, 5), (None, free[1], free[4], free[7]), (1.0, 1.3)):
            (row,) = model.generate(PROMPTS[:1], max_tokens=8, beams=beams, eos=eos, repetition_penalty=penalty)
            expected = theirs.generate(
                torch.tensor(PROMPTS[:1]), max_new_tokens=8, num_beams=beams, eos_token_id=eos, pad_token_id=0,
                repetition_penalty=penalty, do_sample=False, early_stopping="never" if beams > 1 else None,
            )[0, 5:].tolist()  # fmt: skip
            if eos in expected:
                expected = expected[: expected.index(eos) + 1]
            assert row.tokens == expected, (seed, beams, eos, penalty)


@each_model
def test_one_beam_is_greedy_and_three_find_a_likelier_text(name):
    model = build(name)
    greedy = model.generate(PROMPTS, max_tokens=6)
    assert model.generate(PROMPTS, max_tokens=6, beams=1) == greedy
    searched = model.generate(PROMPTS, max_tokens=6, beams=8)
    assert all(found.score >= row.score - 1e-9 for found, row in zip(searched, greedy))
    assert any(found.score > row.score + 1e-3 for found, row in zip(searched, greedy))


def test_as_many_beams_as_there_are_texts_find_the_best_of_all():
    model = build("mamba2_lm_test", vocab_size=5)
    for eos in (None, 2):
        texts = [list(text) for length in (1, 2) for text in itertools.product(range(5), repeat=length)]
        if eos is None:
            texts = [text for text in texts if len(text) == 2]
        else:  # those that end at 2, or are of full length without it
            texts = [text for text in texts if eos not in text[:-1] and (len(text) == 2 or text[-1] == eos)]
        best = max(texts, key=lambda text: log_probability(model, [1, 3], text) / len(text))
        (row,) = model.generate([[1, 3]], max_tokens=2, beams=5, eos=eos)
        assert row.tokens == best
        assert row.reason == ("eos" if eos in best else "length")


def test_the_end_token_ends_a_row_and_the_others_go_on():
    model = build("mamba_lm_test")
    free = model.generate(PROMPTS, max_tokens=8)
    eos = next(token for token in free[1].tokens[2:] if token not in free[1].tokens[:2])
    rows = model.generate(PROMPTS, max_tokens=8, eos=eos, decode=decode)
    for row, before in zip(rows, free):
        end = before.tokens.index(eos) + 1 if eos in before.tokens else 8
        assert row.tokens == before.tokens[:end]
        assert row.reason == ("eos" if eos in before.tokens else "length")
    assert rows[1].reason == "eos" and rows[1].text == decode(rows[1].tokens[:-1])
    assert {len(row.tokens) for row in rows} != {8}
    drawn = {"temperature": 2.0, "max_tokens": 30}
    drawn["eos"] = model.generate(PROMPTS[:1], seed=5, **drawn)[0].tokens[3]  # the first row leaves before the others
    together = model.generate(PROMPTS, seed=[5, 6, 7], **drawn)
    assert len(together[0].tokens) < min(len(row.tokens) for row in together[1:])
    for prompt, seed, row in zip(PROMPTS, (5, 6, 7), together):
        assert model.generate([prompt], seed=seed, **drawn)[0].tokens == row.tokens
    assert model.generate(PROMPTS, max_tokens=0)[2] == ([], "", "length", 0, [], [])


@pytest.mark.parametrize("beams", [1, 3])
def test_stop_strings_across_tokens(beams):
    model = build("mamba_lm_test")
    (free,) = model.generate([PROMPTS[0]], max_tokens=8, beams=beams, decode=decode)
    place = len(decode(free.tokens[:4]))  # from the end of one token into the next
    stop = free.text[place - 2 : place + 2]
    at = free.text.index(stop)
    pieces = []
    (row,) = model.generate(
        [PROMPTS[0]], max_tokens=8, beams=beams, decode=decode, stop=["never", stop],
        on_text=lambda number, text: pieces.append((number, text)),
    )  # fmt: skip
    if beams == 1:
        assert row.text == free.text[:at] and row.tokens == free.tokens[: len(row.tokens)]
        assert row.reason == "stop" and decode(row.tokens[:-1]).find(stop) < 0 <= decode(row.tokens).find(stop)
    assert stop not in row.text and "".join(text for _, text in pieces) == row.text
    assert {number for number, _ in pieces} == {0}


def test_streaming_yields_the_same_text():
    model = build("mamba2_lm_test")
    pieces = {0: [], 1: [], 2: []}
    rows = model.generate(
        PROMPTS, max_tokens=20, temperature=1.0, decode=decode, on_text=lambda row, text: pieces[row].append(text)
    )
    for number, row in enumerate(rows):
        assert "".join(pieces[number]) == row.text == decode(row.tokens)
        assert len(pieces[number]) == 20


def test_padding_of_the_vocabulary_is_never_written():
    model = build("mamba_lm_test", vocab_size=3)
    with torch.no_grad():
        model.backbone.embedding.weight[3:] = 10 * model.backbone.embedding.weight[:1].sign()
    rows = model.generate([[0, 1, 2]], max_tokens=20, temperature=3.0)
    assert set(rows[0].tokens) <= {0, 1, 2}


def test_half_precision_draws_from_wide_scores():
    model = build("mamba_lm_test").bfloat16()
    (row,) = model.generate([PROMPTS[0]], max_tokens=5, **SAMPLED)
    assert len(row.tokens) == 5 and row.score < 0
    assert generate(model, torch.tensor([PROMPTS[0]]), max_tokens=5, **SAMPLED) == [row]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0, got -1.0"),
        ({"top_p": 0.0, "temperature": 1.0}, "top_p must be above 0 and at most 1"),
        ({"min_p": 2.0, "temperature": 1.0}, "min_p must be from 0 to 1"),
        ({"top_k": -1, "temperature": 1.0}, "top_k must be at least 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
        ({"top_k": 3, "min_p": 0.5}, "top_k, min_p chooses between tokens at random, so temperature must be above 0"),
        ({"max_tokens": -1}, "max_tokens must be at least 0"),
        ({"beams": 0}, "beams must be from 1 to 61"),
        ({"beams": 2, "temperature": 1.0}, "beams=2 needs temperature 0"),
        ({"stop": "end", "decode": decode}, "must be a list of texts"),
        ({"stop": [""], "decode": decode}, "must be a list of texts that are not empty"),
        ({"stop": ["end"]}, "give decode"),
        ({"on_text": print}, "give decode"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"chunk": 1.5}, "chunk must be at least 1 token, got 1.5"),
        ({"max_tokens": 2.5}, "max_tokens must be a whole number, got 2.5"),
        ({"max_tokens": "3"}, "max_tokens must be a whole number, got '3'"),
        ({"beams": True}, "beams must be a whole number, got True"),
        ({"temperature": "1"}, "temperature must be a number, got '1'"),
        ({"top_k": 2.5, "temperature": 1.0}, "top_k must be a whole number, got 2.5"),
        ({"eos": "x"}, "eos must be a list of whole numbers, got 'x'"),
        ({"eos": 61}, r"eos must be tokens from 0 to 60, got \[61\]"),
        ({"eos": [1.5]}, "eos must be a list of whole numbers"),
        ({"seed": "abc"}, "seed must be a list of whole numbers"),
        ({"stop": [3], "decode": decode}, "must be a list of texts"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ModelError, match=message):
        build("mamba_lm_test").generate(PROMPTS, **options)


def test_prompts_that_cannot_be_read():
    model = build("mamba_lm_test")
    with pytest.raises(ModelError, match="prompt 1 has no tokens"):
        model.read([[1], []])
    for prompts in ([[1.5]], [[True]], ["ab"], [[None]], torch.tensor([[1.5]])):
        with pytest.raises(ModelError, match="prompt 0 must be"):
            model.read(prompts)
    for prompts in ("abc", None, 3):
        with pytest.raises(ModelError, match="prompts must be lists of tokens"):
            model.read(prompts)
    with pytest.raises(ShapeError, match=r"tokens \(b, l\)"):
        model.read(torch.tensor([1, 2]))
    with pytest.raises(ModelError, match=r"tokens 0 to 60, the prompt has \[61\]"):
        model.read([[61]])  # the vocabulary's padding
    with pytest.raises(ModelError, match=r"tokens 0 to 60, the prompt has \[-1, 64\]"):
        model.read([[1, 64], [-1]])
    with pytest.raises(ShapeError, match="there are no prompts"):
        model.read([])
    with pytest.raises(ShapeError, match="the reading has 2 rows, the prompts 3"):
        model.read(PROMPTS, model.read(PROMPTS[:2]))


@pytest.mark.parametrize("rows", [[5], [], [-3], [0.5], "a"])
def test_rows_that_a_reading_does_not_have(rows):
    reading = build("mamba_lm_test").read(PROMPTS[:2])
    with pytest.raises(ModelError, match="rows"):
        reading.select(rows)
    assert reading.select([-1]).tokens == (tuple(PROMPTS[1]),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("token", [300, -1])
@torch.no_grad()
def test_tokens_that_the_model_does_not_have(dtype, token):
    model = build("mamba_lm_test").to(dtype)
    with pytest.raises(ModelError, match=rf"tokens 0 to 63, input_ids are from {min(token, 3)} to {max(token, 3)}"):
        model(torch.tensor([[3, token]]))
    _, state = model(torch.tensor([[3]]))
    with pytest.raises(ModelError, match="tokens 0 to 63"):
        model(torch.tensor([[token]]), state)
    with pytest.raises(ShapeError, match="input_ids must be a tensor"):
        model([[3]])


@torch.no_grad()
def test_logarithms_of_tokens_are_those_of_the_models_distribution():
    model = build("mamba_lm_test")
    options = {"max_tokens": 5, "temperature": 1.5, "seed": 2}
    rows = model.generate(PROMPTS, logprobs=3, **options)
    for prompt, row, without in zip(PROMPTS, rows, model.generate(PROMPTS, **options)):
        assert row.tokens == without.tokens and row.logprobs == without.logprobs and without.top_logprobs == []
        logits, _ = model(torch.tensor([[*prompt, *row.tokens]]))
        logs = logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert row.logprobs == pytest.approx(logs.gather(1, torch.tensor(row.tokens)[:, None])[:, 0].tolist())
        assert sum(row.logprobs) == pytest.approx(row.score)
        values, tokens = logs.topk(3)
        assert [[token for token, _ in pairs] for pairs in row.top_logprobs] == tokens.tolist()
        assert [value for pairs in row.top_logprobs for _, value in pairs] == pytest.approx(values.flatten().tolist())
    with pytest.raises(ModelError, match="logprobs=3 needs beams=1"):
        model.generate(PROMPTS, beams=2, logprobs=3)
    with pytest.raises(ModelError, match="logprobs must be from 0 to"):
        model.generate(PROMPTS, logprobs=10**6)
