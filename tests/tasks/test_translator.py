"""Translating texts with a finished model: blank texts, prefixes, paragraphs, n-best lists, scores of given ones."""

import pytest
import torch

import ssmlab
from ssmlab.core.errors import UserError
from ssmlab.data.pairs.subwords import train_subwords
from ssmlab.generation.beams import BeamOptions
from ssmlab.models import create_model
from ssmlab.tasks.translate.translator import open_translator, sentences

TEXTS = ["A dog runs.", "", "Zwei Hunde laufen über die Straße.", " \t\u2028", "J", "x" * 70]


@pytest.fixture(scope="module")
def model():
    """Of bytes, in float64, with large weights; the end is likely."""
    torch.manual_seed(0)
    made = create_model("translation_mamba_test", vocab_size=259).double().eval()
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            parameter.mul_(1 if key.endswith("dt_bias") else 3)
        made.lm_head.weight[2] = 3 * made.lm_head.weight[2]
    return made


@pytest.fixture(scope="module")
def words():
    return train_subwords(["abc"], 259)


@pytest.fixture
def translator(model, words):
    return open_translator(model, tokenizer=words, device="cpu")


def test_every_text_has_a_translation_and_blank_ones_an_empty_one(model, words, translator):
    found = ssmlab.translate(model, TEXTS, tokenizer=words, device="cpu", beams=3)
    assert sum(one.text != "" for one in found) > 2
    assert found[1] == found[3] == ("", 0.0, "eos", [], [], ())
    for text, one in zip(TEXTS, found, strict=True):
        (alone,) = ssmlab.translate(model, text, tokenizer=words, device="cpu", beams=3)
        assert (alone.text, alone.tokens, alone.reason) == (one.text, one.tokens, one.reason)
        assert not {0, 1} & set(one.tokens)
        assert one.text == words.decode([token for token in one.tokens if token != 2])
    assert [one.text for one in translator.translate(iter(TEXTS), BeamOptions(beams=3))] == [one.text for one in found]


def test_the_best_of_a_list_is_what_one_gets_without_it(translator):
    options = {"beams": 4, "length_penalty": 0.5}
    (alone,) = translator.translate(TEXTS[:1], BeamOptions(**options))
    (best,) = translator.translate(TEXTS[:1], BeamOptions(**options, nbest=4))
    assert best[:5] == alone[:5] and len(best.others) == 3
    assert len({tuple(one.tokens) for one in (best, *best.others)}) == 4


def test_prefixes_come_before_the_text_and_before_its_translation(translator):
    plain = BeamOptions(beams=2)
    (named,) = translator.translate(["dog"], plain, source_prefix=">>fra<< ", target_prefix="Le ", max_tokens=5)
    assert named.text.startswith("Le ") and len(named.tokens) <= 5
    assert list(translator.translate([">>fra<< dog"], plain, target_prefix="Le ", max_tokens=5)) == [named]
    assert next(translator.translate([" "], plain, source_prefix=">>fra<< ")).text == ""


def test_paragraphs_are_translated_sentence_by_sentence(translator):
    text, options = "A dog runs.  It is 3.5 m long! Why?", BeamOptions(beams=2)
    parts = ["A dog runs.", "It is 3.5 m long!", "Why?"]
    assert sentences(text) == parts and sentences("") == [""] and sentences("no end") == ["no end"]
    assert sentences('He said "no." Then…') == ['He said "no."', "Then…"] and sentences("好。行！") == ["好。", "行！"]
    whole = list(translator.translate([text, "", "J"], options, paragraphs=True))
    single = list(translator.translate([*parts, "J"], options))
    assert [one.text for one in whole] == [" ".join(one.text for one in single[:3]), "", single[3].text]
    assert whole[0].tokens == [token for one in single[:3] for token in one.tokens]
    with pytest.raises(UserError, match="nbest=2 is of single sentences"):
        next(translator.translate([text], BeamOptions(nbest=2), paragraphs=True))


def test_scores_of_given_translations(translator):
    found = [one for one in translator.translate(TEXTS, BeamOptions(beams=2)) if one.reason == "eos" and one.text]
    pairs = [(TEXTS[0], found[0].text), ("", "nothing"), (TEXTS[2], "")]
    given = list(translator.score(pairs))
    assert given[1] == ("", 0.0, "eos", [], [], ()) and [one.text for one in given] == [found[0].text, "", ""]
    assert given[2].tokens == [2]
    tokens = translator.tokenizer.encode(found[0].text)
    assert given[0].tokens == [*tokens, 2] and given[0].score == pytest.approx(
        sum(given[0].logprobs) / (len(tokens) + 1)
    )
    (sums,) = translator.score(pairs[:1], 0.0)
    assert sums.score == pytest.approx(sum(given[0].logprobs))


def test_mistakes(model, words):
    with pytest.raises(UserError, match="translate needs a translation model, got mamba_lm_test"):
        open_translator(create_model("mamba_lm_test"), tokenizer=words)
    with pytest.raises(UserError, match="nothing says what the model's tokens are"):
        open_translator(model)
