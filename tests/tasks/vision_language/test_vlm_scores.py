"""Scores of answers and captions, and retrieval by likelihood."""

import json
from pathlib import Path

import numpy as np
import pytest

from ssmlab.core.errors import DataError
from ssmlab.tasks.vision_language.answers import (
    normalise,
    read_references,
    says_no,
    score_pope,
    score_vqa,
    vqa_accuracy,
)
from ssmlab.tasks.vision_language.caption_scores import bleu_of, bleu_statistics, caption_words, cider_d, score_captions
from ssmlab.tasks.vision_language.retrieval import own_is_lower, retrieve
from ssmlab.tasks.vision_language.scienceqa import Answers, answer_index, answer_letter, read_answers, score_scienceqa
from tasks.vision_language.cider_golden import captions

GOLDEN = json.loads((Path(__file__).parent / "cider_golden.json").read_text())


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"), ("E", "E"), ("F", "FAILED"), ("", "FAILED"), ("AB", "FAILED"), ("C. because", "C"),
        ("C.because", "FAILED"), ("B. The answer is C.", "B"), ("So. The answer is C.", "C"),
        ("The answer is C", "FAILED"), ("The answer is C,", "C"), ("The answer is C\n", "FAILED"),
        ("The answer is G.", "G"), ("The answer is A. The answer is A.", "FAILED"), ("the answer is A.", "FAILED"),
        ("D. ", "D"), (" A", "FAILED"),
    ],
)  # fmt: skip
def test_the_letter_of_an_answer(text, letter):
    assert answer_letter(text) == letter


def test_the_index_of_an_answer():
    assert [answer_index(text) for text in ("A", "E", "The answer is G.", "x")] == [0, 4, -1, -1]
    assert answer_index("C", 2) == -1 and answer_index("B", 2) == 1


def problem(answer, **more):
    about = {"subject": "natural science", "grade": "grade3", "hint": "", "image": None, "split": "test"}
    return {"question": "q", "choices": ["a", "b", "c"], "answer": answer} | about | more


def test_scienceqa_with_problems():
    answers = Answers(
        {"1": "A", "2": "The answer is B.", "3": "D", "9": "x", "8": "A"},
        {"1": 0, "2": 2, "3": 1, "9": -1, "8": 0},
        stored={"acc": 50.0},
    )
    problems = {
        "1": problem(0), "2": problem(1, subject="social science", hint="h", image="i", grade="grade7"),
        "3": problem(2, subject="language science", hint="h"), "4": problem(0, image="i"), "8": problem(0, split="val"),
    }  # fmt: skip
    score = score_scienceqa(answers, problems)
    assert score.indices == {"1": 0, "2": 1, "3": -1, "9": -1, "8": 0}
    assert score.contradictions == {"2": (2, 1), "3": (1, -1)}
    assert (score.failed, score.missing, score.unknown) == (["3", "9"], ["4"], ["9"])
    assert score.columns == {
        "NAT": (1, 2), "SOC": (1, 1), "LAN": (0, 1), "TXT": (1, 2), "IMG": (1, 2), "NO": (1, 1), "G1-6": (1, 3),
        "G7-12": (1, 1), "Avg": (2, 4),
    }  # fmt: skip
    assert score.accuracy.value == 0.5
    assert score.to_dict()["acc"] == 50.0 and score.to_dict()["stored"] == {"acc": 50.0}
    assert score_scienceqa(answers, problems, None).columns["Avg"] == (3, 5)
    alone = score_scienceqa(answers)
    assert alone.columns == {} and alone.accuracy is None and alone.contradictions == {"2": (2, 1), "3": (1, 3)}
    with pytest.raises(DataError, match="none of the 5 problems is of part train"):
        score_scienceqa(answers, problems, "train")


def test_forms_of_answers(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"acc": 1.5, "correct": 1, "count": 2, "results": {"3": 0}, "outputs": {"3": "A"}}))
    assert read_answers(path) == Answers({"3": "A"}, {"3": 0}, {}, {"acc": 1.5, "correct": 1, "count": 2})
    path.write_text('{"3": "A"}')
    assert read_answers(path) == Answers({"3": "A"})
    path.write_text('{"question_id": "3", "text": "A", "prompt": "p"}\n{"question_id": 4, "text": "B"}\n')
    assert read_answers(path) == Answers({"3": "A", "4": "B"}, prompts={"3": "p", "4": ""})
    for content, said in (
        ('{"3": 4}', "no texts"), ("{}", "no answers"), ('[{"text": "A"}]', "no question_id"), ("[", "cut off"),
        ('{"outputs": {"3": "A"}, "results": {"3": "0"}}', "no whole numbers"),
        ('[{"question_id": 1, "text": "A"}, {"question_id": "1", "text": "A"}]', "more than once"),
    ):  # fmt: skip
        path.write_text(content)
        with pytest.raises(DataError, match=said):
            read_answers(path)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: str(row["n"]))
def test_cider_and_bleu_are_pycocoevalcaps(row):
    candidates, references = captions(row["n"], row["seed"])
    np.testing.assert_allclose(cider_d(candidates, references), row["cider"], rtol=0, atol=1e-9)
    assert bleu_of(bleu_statistics(candidates, references).sum(0)) == pytest.approx(row["bleu"], abs=1e-9)


def test_cider_by_another_corpus():
    candidates, references = captions(12, 1)
    assert np.array_equal(cider_d(candidates, references, references), cider_d(candidates, references))
    assert not np.array_equal(cider_d(candidates, references, captions(40, 2)[1]), cider_d(candidates, references))
    with pytest.raises(DataError, match="needs a reference"):
        cider_d(candidates, [*references[:-1], []])


def test_words_of_captions():
    text = "A man's t-shirt isn't red, \"he\" cannot (see) 1,000 dogs & cats."
    assert caption_words(text) == "a man 's t-shirt is n't red he can not -lrb- see -rrb- 1,000 dogs & cats"
    assert caption_words("") == ""


def test_captions_against_shuffled_pairs():
    things = ["dog", "cat", "horse", "boat", "tree", "car", "bird", "house", "ball", "book", "lamp", "shoe"]
    references = {f"{n}.jpg": [f"a {one} by the {one} gate .", f"the {one} stands"] for n, one in enumerate(things)}
    own = score_captions({name: texts[0] for name, texts in references.items()}, references)
    assert own.above_shuffled and own.n == 12 and own.hits == 1
    assert own.bleu.value == pytest.approx(1) and own.cider_gain.value == own.cider.value - own.cider_shuffled.value
    same = score_captions(dict.fromkeys(references, "a dog stands ."), references)
    assert not same.above_shuffled
    assert own == score_captions({name: texts[0] for name, texts in references.items()}, references)
    with pytest.raises(DataError, match=r"no caption of 0\.jpg"):
        score_captions({}, references)


@pytest.mark.parametrize(
    ("text", "said"),
    [("The two Dogs.", "2 dogs"), ("don't", "dont"), ("1,000", "1000"), ("3.5", "3.5"), ("t-shirt", "t shirt"),
     ("An apple, a pear", "apple pear"), ("none", "0"), ("Yes!", "yes")],
)  # fmt: skip
def test_answers_are_compared_as_vqa_does(text, said):
    assert normalise(text) == said


def test_vqa(tmp_path):
    assert vqa_accuracy("Two", ["2"]) == 1 and vqa_accuracy("three", ["2"]) == 0
    assert vqa_accuracy("cat", ["cat"] * 3 + ["dog"] * 7) == pytest.approx((7 * 1 + 3 * 2 / 3) / 10)
    assert vqa_accuracy("cat", ["cat"] * 4 + ["dog"] * 6) == 1
    path = tmp_path / "references.json"
    path.write_text('[{"question_id": 1, "answer": "cat"}, {"question_id": 2, "answers": [{"answer": "no"}, "No"]}]')
    known = read_references(path)
    assert known == {"1": ["cat"], "2": ["no", "No"]}
    score = score_vqa({"1": "A cat."}, known)
    assert (score.accuracy.value, score.n, score.missing) == (0.5, 2, ["2"])
    path.write_text('[{"question_id": 1}]')
    with pytest.raises(DataError, match="without answer"):
        read_references(path)


def test_pope():
    texts = ["No, there is none", "Yes. no", "There is not any", "yes", "Nothing", "no"]
    assert [says_no(text) for text in texts] == [True, False, True, False, False, True]
    score = score_pope(texts, ["no", "yes", "yes", "no", "yes", "no"])
    assert score.counts == (2, 1, 2, 1) and score.accuracy.value == pytest.approx(4 / 6)
    assert score.precision == score.recall == score.f1 == pytest.approx(2 / 3) and score.yes == 0.5
    assert score_pope(["no"], ["no"]).f1 == 0
    with pytest.raises(DataError, match="'maybe'"):
        score_pope(["no"], ["maybe"])


def test_retrieval():
    rng = np.random.default_rng(0)
    alone = rng.uniform(5, 50, 30)  # likely and unlikely texts
    nll = alone + rng.normal(0, 0.1, (30, 30)) - 2 * np.eye(30)
    for found in retrieve(nll, alone):
        assert found.recall[1].value == 1 and found.found[1] == 30
        assert found.chance == {1: pytest.approx(1 / 30), 5: pytest.approx(5 / 30), 10: pytest.approx(10 / 30)}
    by_image, _ = retrieve(nll, np.zeros(30))
    assert by_image.recall[1].value < 0.2  # likely texts win everywhere
    blind = np.tile(alone, (30, 1))
    for found in retrieve(blind, alone):
        assert found.recall[10].value == 0 and set(found.ranks.tolist()) == {30}  # ties count as better


def test_retrieval_of_several_texts():
    owner = [0, 0, 1, 2]
    nll = np.array([[1.0, 9, 5, 5], [5, 5, 1, 5], [0, 5, 5, 9]])
    by_image, by_text = retrieve(nll, np.full(4, 5.0), owner)
    assert by_image.ranks.tolist() == [1, 1, 4] and by_text.ranks.tolist() == [2, 3, 1, 3]
    assert by_image.chance[1] == pytest.approx(np.mean([2, 1, 1]) / 4)
    for bad in ({"owner": [0, 0, 1, 1]}, {"alone": np.zeros(3)}):
        with pytest.raises(DataError, match="retrieve"):
            retrieve(nll, **{"alone": None, "owner": owner} | bad)
    with pytest.raises(DataError, match="finite"):
        retrieve(np.array([[np.nan]]))


def test_own_against_other():
    sign = own_is_lower([1.0] * 40 + [3.0] * 20, [2.0] * 60)
    assert (sign.lower, sign.n) == (40, 60) and 0.005 < sign.p < 0.01
    assert own_is_lower([1.0], [1.0]).lower == 0
