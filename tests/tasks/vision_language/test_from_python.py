"""`fit`, `evaluate` and `predict` take vision-language models and pictures from memory."""

import numpy as np
import pytest

import ssmlab
from ssmlab.core.errors import DataError, UserError
from ssmlab.tasks.vision_language.python import conversations_of
from tiny_vision import picture, small

ITEMS = [(picture(i), "What is it?", f"Number {i}.") for i in range(4)]
HOW = {"epochs": 1, "batch_size": 2, "learning_rate": 1e-3, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fits") / "fit"
    return ssmlab.fit(small(), "vision_language", ITEMS, ITEMS[:2], folder=folder, **HOW)


def test_a_fit_trains_the_projector_and_the_language_model(fitted):
    trained = {name.partition(".")[0] for name, p in fitted.model.named_parameters() if p.requires_grad}
    assert trained == {"projector", "language"} and fitted.steps == 2
    first = dict(small().named_parameters())
    same = {name for name, p in fitted.model.named_parameters() if (p == first[name]).all()}
    assert all(name.startswith("encoder.") for name in same) and any(name.startswith("encoder.") for name in same)
    assert np.isfinite(fitted.records.value("loss", split="val"))


def test_a_folder_is_as_good_as_the_model(fitted):
    how = {"answers": 2, "max_tokens": 3, "bootstrap": 100, "progress": False, "device": "cpu"}
    found = ssmlab.evaluate(fitted, ITEMS, **how)
    assert ssmlab.evaluate(fitted.folder, ITEMS, **how) == found
    assert {"own_image_likelier", "exact_match"} <= {record.metric for record in found}
    assert found.value("loss") != found.value("loss", class_="grey image")
    questions = [(image, question) for image, question, _ in ITEMS]
    answers = ssmlab.predict(fitted.folder, questions, max_tokens=4)
    alone = [fitted.model.ask(image, question, max_tokens=4) for image, question in questions]
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in alone]


def test_pictures_of_both_parts_are_told_apart(fitted):
    own = ssmlab.evaluate(fitted, ITEMS[:2], answers=0, progress=False, device="cpu").value("loss")
    assert fitted.records.value("loss", split="val") == pytest.approx(own, rel=1e-5)


def test_items_of_every_form_are_one_conversation(tmp_path):
    file = tmp_path / "a.png"
    picture(0).save(file)
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    forms = [(file, "What?", "That."), ([picture(0)], "What?", "That."), {"image": str(file), "conversations": turns}]
    made = conversations_of(forms, pictures := {})
    assert len({record.turns for record in made}) == 1 and list(pictures) == ["picture 0"]
    assert conversations_of(made, {}) == made
    assert conversations_of([(None, "What?", "That.")], {})[0].images == ()


@pytest.mark.parametrize(
    ("items", "error", "words"),
    [
        ([("a.png", "What?", "That.")], UserError, "no file a.png"),
        ([(None, "What?")], UserError, "item 0 must be"),
        ([(None, "", "That."), (None, "What?", "")], DataError, "2 of 2 items"),
        ([], UserError, "empty"),
    ],
)
def test_wrong_items_are_refused(items, error, words):
    with pytest.raises(error, match=words):
        ssmlab.fit(small(), "vision_language", items, **HOW)


def test_parts_and_models_that_are_none_are_refused():
    with pytest.raises(UserError, match="trained must name some of"):
        ssmlab.fit(small(), "vision_language", ITEMS, trained="tower", **HOW)
    with pytest.raises(UserError, match="takes vision-language models"):
        ssmlab.fit(ssmlab.create_model("mamba_lm_test", vocab_size=257), "vision_language", ITEMS, **HOW)
