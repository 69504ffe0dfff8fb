"""Questions of records in batches, likelihoods, and what pruning loses: each as one by one."""

import json

import numpy as np
import pytest
import torch

from ssmlab.data.conversations import MARK, Conversation, Turn
from ssmlab.models.vision_language.reduce import METHODS
from ssmlab.tasks.vision_language.answering import answer_all, likelihoods, turn_records
from ssmlab.tasks.vision_language.prune import measure, table
from tiny_vision import picture, small


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        picture(seed).save(folder / f"{seed}.png")
    files = [folder / f"{seed}.png" for seed in range(3)]

    def record(i, images, *texts):
        turns = tuple(Turn("model" if n % 2 else "human", text) for n, text in enumerate(texts))
        return Conversation(i, str(i), tuple(files[k] for k in images), turns)

    return [
        record(0, [0], f"{MARK}\nWhat?", "A."),
        record(1, [0], f"{MARK}\nWhat is on the left of it?", "Bee."),
        record(2, [], "No picture at all?", "C."),
        record(3, [1, 2], f"{MARK}\n{MARK}\nWhich?", "The other one."),
        record(4, [2], f"Before {MARK} and after?", "D."),
        record(5, [1], f"{MARK}\nOne?", "Yes.", "And now?", "No."),
    ]


def test_answers_in_batches_are_those_of_one_by_one(model, records):
    alone = [answer.tokens for answer in answer_all(model, records, batch_size=1, max_tokens=5)]
    for size in (2, 8):
        found = answer_all(model, records, batch_size=size, max_tokens=5)
        assert [answer.tokens for answer in found] == alone
    read = model.read_image(records[0].images[0])
    assert alone[0] == read.ask("What?", max_tokens=5).tokens


def test_an_image_of_neighbouring_questions_is_read_once(model, records):
    before = model.counts.encoder_calls
    answer_all(model, records[:2], batch_size=2, max_tokens=1)
    assert model.counts.encoder_calls == before + 1


@torch.no_grad()
def test_likelihoods_are_sums_of_log_probabilities(model, records):
    texts = ["A.", "Something longer than that."]
    reads = [model.read_image(image) for image in records[3].images]
    found = likelihoods(model, reads, texts, "What?")
    for i, read in enumerate(reads):
        for j, text in enumerate(texts):
            tokens = [*f" {text}".encode(), 256]
            state, total = read.after("What?"), 0.0
            logits, layers = state.logits, state.state
            for token in tokens:
                total += float(logits[0].log_softmax(-1)[token])
                logits, layers = model.language(torch.tensor([[token]]), layers)
                logits = logits[:, -1]
            assert found[i, j] == pytest.approx(total, abs=1e-3)


def test_pruning_everything_in_one_table(model, records):
    rows = measure(model, records[:2], list(METHODS), [0.25], count=2, max_tokens=3)
    first, *others = rows
    assert (first.method, first.kl, first.changed) == ("all", 0.0, 0.0)
    assert first.mean_cosine == pytest.approx(1, abs=1e-5)
    assert [row.method for row in others] == list(METHODS) and all(row.tokens == first.tokens // 4 for row in others)
    assert all(row.kl > 0 and row.nearest_cosine < 1 for row in others)
    assert model.reduce is None and first.reading_macs > others[0].reading_macs
    assert json.loads(json.dumps([row.content() for row in rows])) and "visionzip 25%" in table(rows)


def test_the_state_of_a_conversation_does_not_grow(model, records):
    found = turn_records(model, records, 4)
    sizes = {record.value for record in found if record.metric == "turn_state_bytes"}
    assert len(sizes) == 1 and len([r for r in found if r.metric == "turn_seconds_per_token"]) == 4
    assert turn_records(model, records, 0) == [] and np.isfinite([r.value for r in found]).all()
