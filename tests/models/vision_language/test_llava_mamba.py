"""Laws of a model that reads images: spliced by mask, read once, asked many times, in batches as one by one."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from ssmlab.checkpoints.folder import load_model, save_model
from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models import create_model
from ssmlab.models.vision_language.pixels import hash_of, picture_of, pixels
from ssmlab.tasks.vision_language.use import Voice, load_read, open_model, save_read
from tiny_vision import picture, small

QUESTION = "What is on the left?"


def whole(model, images, question):
    """Logits where the answer begins, of one reading of everything."""
    tokens = model.project(model.encode(images)) if images else None
    count = 0 if tokens is None else tokens.shape[1]
    ids = model.speech.prompt([("human", question)], [count] * len(images))
    with torch.no_grad():
        logits, _ = model(torch.tensor([ids]), None if tokens is None else tokens.flatten(0, 1), last_only=True)
    return logits[:, -1]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_image_that_was_read_is_as_if_read_with_the_question(model, pictures, count):
    read = model.read_image(pictures[:count])
    before = (model.counts.encoder_calls, model.counts.prefix_tokens, model.counts.image_tokens)
    logits = read.after(QUESTION).logits
    assert (model.counts.encoder_calls, model.counts.prefix_tokens, model.counts.image_tokens) == before
    torch.testing.assert_close(logits, whole(model, pictures[:count], QUESTION), atol=1e-4, rtol=0)


def test_the_state_of_an_image_has_one_size_and_stays_as_it_was(model, pictures):
    read = model.read_image(pictures[0])
    first = read.ask(QUESTION, max_tokens=4)
    read.ask("Something else, and a longer question than that?", max_tokens=9)
    assert read.ask(QUESTION, max_tokens=4) == first
    assert read.bytes == model.read_image(pictures[:2]).bytes > 0


def test_answers_of_a_batch_are_those_of_one_by_one(model, pictures):
    questions = ["Why?", "What is on the left of the picture?", "How many are there", "?"]
    reads = [model.read_image(image) for image in pictures]
    together = model.ask_all(reads, questions, max_tokens=6)
    alone = [read.ask(question, max_tokens=6) for read, question in zip(reads, questions, strict=True)]
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    forked = reads[0].ask_all(questions, max_tokens=6)
    assert [a.tokens for a in forked] == [reads[0].ask(q, max_tokens=6).tokens for q in questions]


def test_a_dialog_reads_nothing_twice_and_equals_its_prompt_as_a_whole(model, pictures):
    read = model.read_image(pictures[0])
    dialog, size = read.dialog(), read.bytes
    dialog.ask("One?", max_tokens=3)
    dialog.ask("Two?", max_tokens=3)
    turns = [*dialog.turns, ("human", "Three?")]
    seen = model.counts.question_tokens
    prefix = len(model.speech.prompt(dialog.turns[:-1], [model.image_tokens]))
    dialog.ask("Three?", max_tokens=1)
    tokens = model.speech.prompt(turns, [model.image_tokens])
    assert model.counts.question_tokens - seen == len(tokens) - prefix
    assert dialog.bytes == size
    with torch.no_grad():
        logits, _ = model(torch.tensor([tokens]), model.project(model.encode(pictures[:1])).flatten(0, 1))
    torch.testing.assert_close(dialog._state.logits, logits[:, -1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("place", ["first", "middle", "last", "none"])
def test_images_stand_where_the_mask_says(model, pictures, place):
    tokens = model.project(model.encode(pictures[:1]))[0].detach()
    text, image = list(b"some text"), [-1] * len(tokens)
    row = {"first": image + text, "middle": text + image + text, "last": text + image, "none": text}[place]
    given = None if place == "none" else tokens
    embedded = model.embed(torch.tensor([row]), given)[0]
    places = torch.tensor(row) < 0
    assert torch.equal(embedded[~places], model.language.backbone.embedding(torch.tensor(row)[~places]))
    if given is not None:
        assert torch.equal(embedded[places], tokens)
        with pytest.raises(ShapeError, match="places for"):
            model.embed(torch.tensor([row]), tokens[:-1])


def test_rows_of_other_lengths_do_not_change_each_other(model, pictures):
    tokens = model.project(model.encode(pictures[:2])).detach()
    image = [-1] * tokens.shape[1]
    rows = [image + list(b"a"), list(b"text only"), list(b"before ") + image + list(b" and after")]
    given = [tokens[0], None, tokens[1]]
    together = model.read(rows, given)
    for i, (row, own) in enumerate(zip(rows, given, strict=True)):
        alone = model.read([row], [own])
        torch.testing.assert_close(together.logits[i : i + 1], alone.logits, atol=1e-5, rtol=0)
    pieces = model.read(rows, given, chunk=5)
    torch.testing.assert_close(pieces.logits, together.logits, atol=1e-5, rtol=0)


def test_gradients_reach_projector_and_language_model(model, pictures):
    fresh = small()
    ids = torch.tensor([[-1] * fresh.image_tokens + list(b"text")])
    logits, _ = fresh(ids, fresh.project(fresh.encode(pictures[:1])).flatten(0, 1))
    logits.sum().backward()
    assert fresh.projector.layers[0].weight.grad.abs().sum() > 0
    assert fresh.language.backbone.layers[0].mixer.in_proj.weight.grad.abs().sum() > 0
    assert next(fresh.encoder.parameters()).grad is None


def test_a_saved_model_is_the_same(model, pictures, tmp_path):
    save_model(model, tmp_path / "model", {"template": "vicuna_v1"})
    loaded, about = load_model(tmp_path / "model")
    loaded.speech = model.speech
    assert about["template"] == "vicuna_v1" and loaded.config == model.config
    assert torch.equal(whole(loaded, pictures[:1], QUESTION), whole(model, pictures[:1], QUESTION))
    with pytest.raises(ModelError, match="vlm chat"):
        load_model(tmp_path / "model", "language")


def test_a_state_in_a_file_belongs_to_model_template_and_image(model, pictures, tmp_path):
    file = save_read(model.read_image(pictures[0]), tmp_path / "state.safetensors")
    counts = model.counts.encoder_calls
    read = load_read(file, model)
    assert model.counts.encoder_calls == counts
    assert read.images == (hash_of(picture_of(pictures[0])),)
    expected = model.read_image(pictures[0]).ask(QUESTION, max_tokens=5)
    assert (
        load_read(file, model, pictures[0]).ask(QUESTION, max_tokens=5) == expected == read.ask(QUESTION, max_tokens=5)
    )
    with pytest.raises(ModelError, match=r"^[^\n]*another image[^\n]*$"):
        load_read(file, model, pictures[1])
    other = small()
    other.speech = Voice(model.speech.tokenizer, "v0")
    with pytest.raises(ModelError, match=r"^[^\n]*another template[^\n]*$"):
        load_read(file, other)
    other.speech = model.speech
    with torch.no_grad():
        other.projector.layers[0].bias[3] += 1e-3
    other.forget_hashes()
    with pytest.raises(ModelError, match=r"^[^\n]*another model[^\n]*$"):
        load_read(file, other)


@pytest.mark.slow
def test_a_state_goes_on_in_another_process(model, pictures, tmp_path):
    folder = save_model(model, tmp_path / "model", {"template": "vicuna_v1", "tokenizer": "bytes", "mark": 256})
    here = open_model(folder, device="cpu")
    file = save_read(here.read_image(pictures[0]), tmp_path / "state.safetensors")
    code = (
        "from ssmlab.tasks.vision_language.use import open_model, load_read\n"
        f"model = open_model({str(folder)!r}, device='cpu')\n"
        f"answer = load_read({str(file)!r}, model).ask({QUESTION!r}, max_tokens=8)\n"
        "print(answer.tokens, model.counts.encoder_calls, model.counts.prefix_tokens)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    expected = here.read_image(pictures[0]).ask(QUESTION, max_tokens=8)
    assert out.strip() == f"{expected.tokens} 0 0"


def test_preprocessing_pads_crops_and_stretches(model):
    config = model.config.encoders[0]
    wide = picture(0, (64, 32))
    found = {fit: pixels(wide, type(config)(**{**config.__dict__, "fit": fit})) for fit in ("crop", "pad", "stretch")}
    assert all(values.shape == (3, 64, 64) for values in found.values())
    assert not torch.equal(found["crop"], found["stretch"])
    corner = found["pad"][:, 0, 0] * torch.tensor(config.std) + torch.tensor(config.mean)
    assert (corner * 255).round().tolist() == [int(value * 255) for value in config.mean]


def test_what_is_no_image_is_refused(model):
    with pytest.raises(ModelError, match="picture of Pillow"):
        model.encode([np.zeros((4, 4), np.float32)])
    with pytest.raises(ModelError, match="leave <image> out"):
        model.read_image(picture(0)).ask("<image> what?")


@pytest.mark.parametrize("kind", ["linear", "fused_mlp", "pool", "pixel_shuffle", "queries", "scan"])
def test_every_projector_reads_and_answers(kind, pictures):
    model = small(projector={"kind": kind, "queries": 3, "norm": True})
    quarter = model.encoder.count // 4
    count = {"pool": quarter, "pixel_shuffle": quarter, "queries": 3}.get(kind, model.encoder.count)
    assert model.image_tokens == count == model.project(model.encode(pictures[:1])).shape[1]


def test_batch_norm_takes_away_what_images_have_in_common(pictures, tmp_path):
    model = small(projector={"kind": "linear", "norm": "batch"})
    with torch.no_grad():
        features = model.encode(pictures[:3])
        trained = model.projector.train().norm(features.flatten(0, 1))
        assert trained.mean(0).abs().max() < 1e-4 and (trained.std(0) - 1).abs().max() < 0.1
        model.eval()
        both, alone = model.project(features), model.project(features[:1])
    torch.testing.assert_close(both[:1], alone)
    save_model(model, tmp_path)
    loaded, _ = load_model(tmp_path, "vision_language")
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval().project(features), both)
    with pytest.raises(ModelError, match="norm must be"):
        small(projector={"kind": "linear", "norm": "group"})


@pytest.mark.parametrize(("kind", "side"), [("mlp", 1), ("pool", 2)])
def test_a_newline_ends_every_row_of_the_grid(kind, side, pictures):
    plain, model = (small(projector={"kind": kind, "newline": newline}) for newline in (False, True))
    h, w = (size // side for size in model.encoder.grid)
    assert model.image_tokens == h * (w + 1) == plain.image_tokens + h
    model.load_state_dict(plain.state_dict() | {"projector.newline": model.projector.newline})
    with torch.no_grad():
        features = model.encode(pictures[:2])
        rows = model.project(features).unflatten(1, (h, w + 1))
        assert torch.equal(rows[:, :, :-1].flatten(1, 2), plain.project(features))
        assert (rows[:, :, -1] == model.projector.newline).all()
    assert model.read_image(pictures[0]).ask("What?", max_tokens=2).tokens
    with pytest.raises(ShapeError, match="newline ends the rows"):
        small(projector={"kind": "queries", "newline": True})


def test_encoders_side_by_side_join_their_channels(pictures):
    one = {"name": "medmamba_test", "image_size": 64}
    sizes = {"img_size": 128, "depth": 2, "embed_dim": 12, "num_heads": 2}
    two = {"name": "timm/vit_tiny_patch16_224", "image_size": 128, "layer": -2, "network": sizes}
    model = small(encoders=[one, two])
    widths = [encoder.channels for encoder in model.encoder]
    assert model.encoder.channels == sum(widths) and widths[1] == 12
    features = model.encode(pictures[:1])
    alone = model.encoder.each[1](model.encoder.pixels(picture_of(pictures[0]))[1][None]).values
    torch.testing.assert_close(features[..., widths[0] :], alone)


def test_mistakes_are_said_in_one_line():
    with pytest.raises(ModelError, match="no option 'encoder'"):
        create_model("llava_mamba", encoder="medmamba_test")
    with pytest.raises(ModelError, match="tokens must be one of"):
        small(encoders={"name": "medmamba_test", "tokens": "all"})
    with pytest.raises(ModelError, match="as many features"):
        small(encoders=[{"name": "medmamba_test", "image_size": 64}, {"name": "medmamba_test", "image_size": 128}])
