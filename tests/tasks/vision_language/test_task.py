"""What is learned: answers alone, with as much care for the record as for the batch."""

import json

import numpy as np
import pytest
import torch

from ssmlab.core.errors import DataError, RecipeError
from ssmlab.core.progress import Progress
from ssmlab.data.conversations import MARK, Conversation, Turn, find_template
from ssmlab.data.text.tokenizers import ByteTokenizer
from ssmlab.models.vision_language.encoder import FeatureCache
from ssmlab.tasks.language.task import IGNORE
from ssmlab.tasks.recipe import validate
from ssmlab.tasks.vision_language.building import build_model
from ssmlab.tasks.vision_language.data import learned_tokenizer, one_by_image, stage_records
from ssmlab.tasks.vision_language.examples import Examples, tokens_of
from ssmlab.tasks.vision_language.experiment import learn, look_records
from ssmlab.tasks.vision_language.recipe import Stage, VisionLanguageData, VisionLanguageModel
from ssmlab.tasks.vision_language.report import verdict
from ssmlab.tasks.vision_language.task import VisionLanguage
from ssmlab.training.config import FitConfig
from ssmlab.training.parameters import optimizer_groups
from tiny_vision import picture, small

WORDS = ByteTokenizer(eos=256)
TASK = VisionLanguage()


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("pictures"), []
    for i in range(4):
        picture(i).save(folder / f"{i}.png")
        images = () if i == 2 else (folder / f"{i}.png",)
        question = "A long question of words?" * (i + 1)
        turns = (Turn("human", f"{MARK}\n{question}" if images else question), Turn("model", f"Answer {i}."))
        found.append(Conversation(i, f"r{i}", images, turns))
    return found


def examples(model, records, cache=None, shown="own", length=400, **options):
    found = tokens_of(records, model.speech.template, WORDS, model.image_tokens, length)
    return Examples(records, found.rows, model.encoder, cache, shown, **options)


def test_learned_tokens_are_the_answers(model, records):
    for record, item in zip(records, examples(model, records), strict=True):
        labels = item["labels"][item["labels"] != IGNORE]
        assert WORDS.decode(labels) == f" {record.answer}" and labels[-1] == 256
        assert (item["labels"][np.append(item["ids"][1:], 0) < 0] == IGNORE).all()


def test_a_batch_is_its_rows_and_cached_features_are_the_encoders(model, records):
    cache = FeatureCache(model.encoder)
    own, kept = examples(model, records), examples(model, records, cache)
    with torch.no_grad():
        alone = torch.cat([TASK.loss(model, TASK.collate([item]))[1] for item in own])
        mean, together = TASK.loss(model, TASK.collate([own[i] for i in range(4)]))
        _, from_cache = TASK.loss(model, TASK.collate([kept[i] for i in range(4)]))
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(from_cache, together, atol=1e-4, rtol=1e-5)
    assert float(mean) == pytest.approx(float(alone[:, 0].sum() / alone[:, 1].sum()), rel=1e-5)
    assert cache.encoded == 3
    assert TASK.validation(alone.numpy())["loss"] == pytest.approx(float(mean), rel=1e-5)


def test_features_are_kept_in_files_by_content(model, records, tmp_path):
    first, second = FeatureCache(model.encoder, tmp_path), FeatureCache(model.encoder, tmp_path)
    one = first.of([picture(7)])[0]
    assert np.array_equal(second.of([picture(7)])[0], one) and (first.encoded, second.encoded) == (1, 0)
    other = small()
    with torch.no_grad():
        next(other.encoder.parameters()).add_(1.0)
    third = FeatureCache(other.encoder, tmp_path)
    assert not np.array_equal(third.of([picture(7)])[0], one) and third.encoded == 1


def test_a_wrong_image_is_another_records_and_grey_is_no_picture(model, records):
    shown = {kind: examples(model, records, shown=kind).pictures for kind in ("own", "other", "grey")}
    assert shown["own"][2] == shown["other"][2] == shown["grey"][2] == []
    assert all(a != b for a, b in zip(shown["own"], shown["other"], strict=True) if a)
    assert shown["grey"][0] == ["grey"] and "pixels0" in examples(model, records, shown="grey")[0]


def test_long_records_lose_their_question_and_never_their_answer(model, records):
    shortest = model.image_tokens + len(" Answer 0.") + 1
    found = tokens_of(records, model.speech.template, WORDS, model.image_tokens, shortest + 20)
    assert found.cut == len(records) and all(len(row) == shortest + 20 for row in found.rows)
    assert all(WORDS.decode(row.ids[row.learned]) == f" {r.answer}" for r, row in zip(records, found.rows, strict=True))
    with pytest.raises(DataError, match="3 of 4 records cannot be learned") as error:
        tokens_of(records, model.speech.template, WORDS, model.image_tokens, model.image_tokens)
    assert len(error.value.problems) == 3 and "record 0 (r0)" in str(error.value)


@pytest.mark.parametrize("lora", ["", "projections"])
def test_a_stage_trains_its_parts_at_their_rates(lora):
    network = small()
    stage = Stage(train={"projector": 1e-3, "language": 1e-4}, lora=lora)
    learn(network, stage)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {name.partition(".")[0] for name in trained} == {"projector", "language"}
    assert any("embedding" in name for name in trained) == (not lora)
    groups = optimizer_groups(network, FitConfig(rates=stage.train, learning_rate=1e-3, weight_decay=0.1))
    sizes = {(g["lr"], g["weight_decay"]): sum(p.numel() for p in g["params"]) for g in groups}
    projector = sum(p.numel() for p in network.projector.parameters())
    assert groups[0]["lr"] == 1e-3
    assert sum(n for (rate, _), n in sizes.items() if rate == 1e-3) == projector
    assert sum(sizes.values()) == sum(p.numel() for p in network.parameters() if p.requires_grad)
    with pytest.raises(RecipeError, match="no part 'tower'"):
        learn(network, Stage(train={"tower": 1e-3}))


def test_the_report_says_whether_a_model_looks():
    own = np.array([[1.0, 1, 1]] * 40)
    blind = look_records(TASK, {"own": own, "other": own, "grey": own}, np.ones(40, bool), 100)
    by = {(r.metric, r.class_): r for r in blind}
    assert "does not look" in verdict(by["loss", None].value, by["loss", "another image"].value,
                                      by["own_image_likelier", "another image"])  # fmt: skip
    worse = own + np.array([1.0, 0, 0])
    seen = look_records(TASK, {"own": own, "other": worse, "grey": worse}, np.ones(40, bool), 100)
    by = {(r.metric, r.class_): r for r in seen}
    assert verdict(1.0, 2.0, by["own_image_likelier", "another image"]).startswith("It looks: 100%")
    few = look_records(TASK, {"own": own[:3], "other": worse[:3], "grey": worse[:3]}, np.ones(3, bool), 100)
    by = {(r.metric, r.class_): r for r in few}
    assert verdict(1.0, 2.0, by["own_image_likelier", "another image"]).startswith("Too few records to tell")
    text_only = look_records(TASK, {"own": own, "other": own, "grey": own}, np.zeros(40, bool), 100)
    assert {r.metric for r in text_only} == {"loss", "perplexity", "token_accuracy"}


def test_a_recipe_says_what_is_wrong_with_it():
    table = {"task": "vision_language", "models": [{"encoder": "medmamba_test", "language": "mamba_lm_test"}]}
    recipe = validate(table, "recipe x")
    assert recipe.models[0].encoder == [{"name": "medmamba_test"}] and recipe.training.stages[0].name == "stage 1"
    for wrong, message in (
        ({"training": {"stages": [{"train": {}}]}}, "a stage trains something"),
        ({"training": {"stages": [{"train": {"projector": 0}}]}}, "above 0"),
        ({"training": {"stages": [{"lora": "projections"}]}}, "lora needs the language model"),
        ({"training": {"stages": [{"template": "vicuna"}]}}, "vicuna_v1"),
        ({"training": {"stages": [{"training": {"epoch": 3}}]}}, "epoch"),
        ({"models": [{"name": "llava"}]}, "unknown vision-language model"),
    ):
        with pytest.raises(RecipeError, match=message):
            validate(table | wrong, "recipe x")


def test_a_learned_tokenizer_gives_texts_back_and_begins_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = learned_tokenizer(["a red square on the left", "a blue square on the right"] * 3, 300)
    text = " a red square, äß"
    assert words.decode(words.encode(text)) == text
    assert words.encode(text, special=True)[0] == words.eos == 0
    model = VisionLanguageModel(encoder=["medmamba_test"], language={"model": "mamba_lm_test"}, template="plain")
    model.encoder[0]["image_size"] = 64
    network = build_model(model, words)
    assert network.language.config.vocab_size == words.size
    found = tokens_of(
        [Conversation(0, "0", (), (Turn("human", "Say."), Turn("model", "a red square")))], find_template("plain"),
        words, network.image_tokens, 64,
    )  # fmt: skip
    assert found.rows[0].ids[0] == 0 and not found.rows[0].learned[0] and found.rows[0].learned[1:].all()


def test_questions_about_an_image_become_one_conversation(model, records):
    one, blank, other = records[0], records[2], records[1]
    again = Conversation(4, "r4", one.images, (Turn("human", f"{MARK}\nAnd?"), Turn("model", "So.")))
    joined = one_by_image([one, blank, again, other])
    assert [record.id for record in joined] == ["r0", "r2", "r1"] and joined[1:] == [blank, other]
    assert joined[0].turns == (*one.turns, Turn("human", "And?"), Turn("model", "So."))
    labels = examples(model, joined[:1])[0]["labels"]
    assert WORDS.decode(labels[(labels != IGNORE) & (labels != 256)]) == " Answer 0. So."


@pytest.mark.parametrize("cached", [False, True])
def test_questions_about_an_image_are_one_item_that_encodes_it_once(model, records, cached):
    """Items of one and of several records: the loss, and its gradients, of the records one by one."""
    every = list(records)
    for n in (4, 5, 7, 8):
        images = records[n % 4].images
        asked = Turn("human", f"{MARK if images else ''}\n{'And' * n}?")
        every.append(Conversation(n, f"m{n}", images, (asked, Turn("model", "So." * (n - 3)))))
    cache = FeatureCache(model.encoder) if cached else None
    alone, joined = examples(model, every, cache), examples(model, every, cache, joined=True)
    assert joined.items == [[0, 4, 7], [1, 5], [2], [3, 6]] and len(joined) == 4
    seen = []
    handle = model.encoder.register_forward_hook(lambda module, inputs, out: seen.append(len(out.values)))
    gradients = []
    for batch in (TASK.collate([alone[i] for i in range(8)]), TASK.collate([joined[i] for i in range(4)])):
        model.zero_grad()
        loss, sums = TASK.loss(model, batch)
        loss.backward()
        gradients.append((loss.detach(), [p.grad.clone() for p in model.projector.parameters()], sums))
    handle.remove()
    assert cached or seen == [7, 3]  # images of a batch
    torch.testing.assert_close(gradients[1][:2], gradients[0][:2], atol=1e-5, rtol=1e-4)
    expected = torch.stack([gradients[0][2][rows].sum(0) for rows in joined.items])
    torch.testing.assert_close(gradients[1][2], expected, atol=1e-4, rtol=1e-5)
    for part in (slice(0, 1), slice(1, 3), slice(2, 4), slice(2, 3)):  # pieces of a step
        with torch.no_grad():
            _, found = TASK.loss(model, TASK.rows(batch, part))
        torch.testing.assert_close(found, expected[part], atol=1e-4, rtol=1e-5)


def test_a_stage_never_sees_an_image_of_the_test_part(records):
    rows = [
        {"image": str(r.images[0].name), "question": "What?", "answer": "That."} for r in records if r.images
    ]  # of another form, whose records are told apart by their images
    file = records[0].images[0].parent / "other.json"
    file.write_text(json.dumps(rows))
    grouped = Conversation(0, "n", records[1].images, records[1].turns, {"identifier": "7-0"})
    stage = Stage(name="first", path=str(file), kind="llava")
    notes = []
    kept = stage_records(stage, VisionLanguageData(), [grouped], notes, Progress())
    assert [r.images for r in kept] == [records[0].images, records[3].images] and "1 records about images" in notes[0]
