"""Translating texts with a finished model: blank texts, prefixes, paragraphs, n-best lists, scores of given ones."""

import pytest
import torch

import ssmlab
from ssmlab.core.errors import UserError
from ssmlab.data.pairs.subwords import train_subwords
from ssmlab.models import create_model
from ssmlab.tasks.translate.decoding import Decoding
from ssmlab.tasks.translate.options import TranslateOptions
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
    assert [one.text for one in translator.translate(iter(TEXTS), TranslateOptions(beams=3))] == [
        one.text for one in found
    ]


def test_the_best_of_a_list_is_what_one_gets_without_it(translator):
    options = {"beams": 4, "length_penalty": 0.5}
    (alone,) = translator.translate(TEXTS[:1], TranslateOptions(**options))
    (best,) = translator.translate(TEXTS[:1], TranslateOptions(**options, nbest=4))
    assert best[:5] == alone[:5] and len(best.others) == 3
    assert len({tuple(one.tokens) for one in (best, *best.others)}) == 4


def test_prefixes_come_before_the_text_and_before_its_translation(translator):
    plain = TranslateOptions(beams=2)
    (named,) = translator.translate(["dog"], plain, source_prefix=">>fra<< ", target_prefix="Le ", max_tokens=5)
    assert named.text.startswith("Le ") and len(named.tokens) <= 5
    assert list(translator.translate([">>fra<< dog"], plain, target_prefix="Le ", max_tokens=5)) == [named]
    assert next(translator.translate([" "], plain, source_prefix=">>fra<< ")).text == ""


def test_paragraphs_are_translated_sentence_by_sentence(translator):
    text, options = "A dog runs.  It is 3.5 m long! Why?", TranslateOptions(beams=2)
    parts = ["A dog runs.", "It is 3.5 m long!", "Why?"]
    assert sentences(text) == parts and sentences("") == [""] and sentences("no end") == ["no end"]
    assert sentences('He said "no." Then…') == ['He said "no."', "Then…"] and sentences("好。行！") == ["好。", "行！"]
    whole = list(translator.translate([text, "", "J"], options, paragraphs=True))
    single = list(translator.translate([*parts, "J"], options))
    assert [one.text for one in whole] == [" ".join(one.text for one in single[:3]), "", single[3].text]
    assert whole[0].tokens == [token for one in single[:3] for token in one.tokens]
    with pytest.raises(UserError, match="nbest=2 is of single sentences"):
        next(translator.translate([text], TranslateOptions(nbest=2), paragraphs=True))


def test_a_blank_text_ends_a_document(model, translator):
    """Sentences of a document go on from those before them; documents, in any batch, are as if alone."""
    lines = ["A dog runs.", "J", "", " ", "Zwei Hunde", "A dog runs. Why?", "J", "", "J"]
    options = TranslateOptions(documents=True, beams=2, max_tokens=9)
    found = list(translator.translate(iter(lines), options))
    assert len(found) == len(lines) and [bool(one.tokens) for one in found] == [bool(line.strip()) for line in lines]
    tokens = [one.tokens for one in found]
    for begin, end in ((0, 2), (4, 7), (8, 9)):
        alone = translator.translate(lines[begin:end], options, batch_tokens=1)
        assert [one.tokens for one in alone] == tokens[begin:end]
    single = [one.score for one in translator.translate(lines, options, documents=False)]
    assert [i for i in range(9) if abs(single[i] - found[i].score) > 1e-9] == [1, 5, 6]
    how = Decoding(separator=1, eos=2, suppress=(0,), options=options, group=3, carry=True, max_tokens=9)
    carried = how.lines(model, [translator.tokenizer.encode(line) for line in lines[4:7]])
    assert [line.tokens for line in carried] == [[*filter((2).__ne__, row)] for row in tokens[4:7]], "as a run does it"
    split = list(translator.translate(lines[4:7], options, paragraphs=True))
    first, *middle, last = (
        one.text for one in translator.translate(["Zwei Hunde", "A dog runs.", "Why?", "J"], options)
    )
    assert [one.text for one in split] == [first, " ".join(filter(None, middle)), last]
    lists = list(translator.translate(lines[:2], options, nbest=2))
    assert [one.tokens for one in lists] == tokens[:2] and all(one.others for one in lists)


def test_documents_need_a_state_that_goes_on(words):
    other = create_model("translation_mamba_encdec_test", vocab_size=259).eval()
    with pytest.raises(UserError, match="translation_mamba_encdec_test has an encoder"):
        ssmlab.translate(other, TEXTS, tokenizer=words, documents=True)


def test_scores_of_given_translations(translator):
    found = [one for one in translator.translate(TEXTS, TranslateOptions(beams=2)) if one.reason == "eos" and one.text]
    pairs = [(TEXTS[0], found[0].text), ("", "nothing"), (TEXTS[2], "")]
    given = list(translator.score(pairs))
    assert given[1] == ("", 0.0, "eos", [], [], ()) and [one.text for one in given] == [found[0].text, "", ""]
    assert given[2].tokens == [2]
    tokens = translator.tokenizer.encode(found[0].text)
    assert given[0].tokens == [*tokens, 2] and given[0].score == pytest.approx(
        sum(given[0].logprobs) / (len(tokens) + 1)
    )
    (sums,) = translator.score(pairs[:1], length_penalty=0.0)
    assert sums.score == pytest.approx(sum(given[0].logprobs))


def test_mistakes(model, words):
    with pytest.raises(UserError, match="translate needs a translation model, got mamba_lm_test"):
        open_translator(create_model("mamba_lm_test"), tokenizer=words)
    with pytest.raises(UserError, match="nothing says what the model's tokens are"):
        open_translator(model)
    with pytest.raises(UserError, match="translate has no option 'beam'; did you mean beams"):
        ssmlab.translate(model, TEXTS, tokenizer=words, beam=3)
    with pytest.raises(UserError, match="nbest=3 texts need as many beams, got beams=2"):
        ssmlab.translate(model, TEXTS, tokenizer=words, beams=2, nbest=3)
