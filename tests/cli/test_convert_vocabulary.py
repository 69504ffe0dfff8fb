"""A vocabulary has only tokens that exist: in logits, losses, exports and in what transformers draws."""

import json
import math
import shutil

import pytest
import torch
from calling import call
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssmlab.checkpoints.files import load_language_model, save_language_model
from ssmlab.core.errors import ModelError
from ssmlab.data.text.documents import Document
from ssmlab.data.text.jsonl import chat_tokens
from ssmlab.data.text.packing import pack
from ssmlab.models import create_model
from ssmlab.tasks.language.experiment import dataset_of
from ssmlab.tasks.language.rows import row_metrics
from ssmlab.tasks.language.task import Language

KINDS = {"bytes": (257, 256, "text"), "dna": (6, 5, "dna")}


def trained(folder, kind, name="mamba_lm_test", **options):
    """A folder as a run leaves it; every logit that only fills up the vocabulary would be a large one."""
    size, mark, data = KINDS[kind]
    torch.manual_seed(0)
    model = create_model(name, vocab_size=size, **options).eval()
    with torch.no_grad():
        model.backbone.embedding.weight[size:] += 5
        model.lm_head.weight[size:] += 5
    save_language_model(model, folder)
    about = {"kind": data, "tokenizer": "bytes" if kind == "bytes" else "", "mark": mark}
    (folder / "preprocess.json").write_text(json.dumps(about))
    return model


@pytest.fixture(scope="module", params=KINDS)
def converted(request, tmp_path_factory):
    """kind, our model, the folder in Hugging Face's layout, transformers' model."""
    place = tmp_path_factory.mktemp(request.param)
    model = trained(place / "ours", request.param)
    assert call("convert", place / "ours", place / "hf") == 0
    return request.param, model, place / "hf", AutoModelForCausalLM.from_pretrained(place / "hf").eval()


def test_perplexity_is_that_of_the_logits_and_of_transformers(converted):
    kind, model, _, theirs = converted
    size, mark, _ = KINDS[kind]
    tokens = torch.randint(0, mark, (97,), generator=torch.Generator().manual_seed(1)).numpy()
    rows = pack([Document("a", tokens)], 98, mark)
    batch = dataset_of(rows).__getitems__([0])
    task = Language(vocab_size=size, unit="byte")
    with torch.no_grad():
        sums = task.loss(model, batch)[1].numpy()
        own, other = model(batch["tokens"])[0], theirs(batch["tokens"]).logits
    assert own.shape == other.shape == (1, 98, size)
    said = next(r.value for r in row_metrics(task, sums, 100) if r.metric == "perplexity")
    for logits in (own, other):
        assert said == pytest.approx(math.exp(F.cross_entropy(logits.mT, batch["labels"]).item()), rel=1e-5)


def test_all_tokens_that_transformers_draws_exist(converted):
    kind, _, folder, theirs = converted
    size, _, _ = KINDS[kind]
    words = AutoTokenizer.from_pretrained(folder)
    assert len(words) == size == theirs.config.vocab_size
    torch.manual_seed(0)
    drawn = theirs.generate(
        torch.zeros(200, 1, dtype=torch.int64), do_sample=True, max_new_tokens=50, eos_token_id=None, pad_token_id=0
    )
    assert drawn.shape == (200, 51) and drawn.max() < size
    assert None not in words.convert_ids_to_tokens(drawn.flatten().tolist())


def test_the_tokenizer_of_an_export_reads_as_ours(converted, capsys):
    kind, model, folder, _ = converted
    words = AutoTokenizer.from_pretrained(folder)
    assert words.eos_token_id == KINDS[kind][1]
    if kind == "bytes":
        text = "héllo\r\n <|x|>\t\u00a0日本"
        assert words(text).input_ids == list(text.encode()) and words.decode(list(text.encode())) == text
    else:
        assert words("ACGTNacgtnU").input_ids == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 3]
        assert words.decode([0, 1, 2, 3, 4]) == "ACGTN"
    capsys.readouterr()
    assert call("generate", folder, "--prompt", "ACGT", "--max-tokens", "4", "--device", "cpu") == 0
    shown = capsys.readouterr()
    (expected,) = model.generate([[0, 1, 2, 3] if kind == "dna" else list(b"ACGT")], max_tokens=4)
    assert "prompt: 4 tokens" in shown.err and len(expected.tokens) == 4


def test_a_folder_of_before_opens_without_its_padding(tmp_path):
    model = trained(tmp_path / "old", "bytes")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    del config["config"]["padded_logits"]  # which older versions did not write
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    loaded = load_language_model(tmp_path / "old")
    assert loaded(torch.zeros(1, 3, dtype=torch.int64))[0].shape[-1] == 257 and loaded.config == model.config


def test_published_models_keep_the_logits_of_their_originals(tmp_path):
    made = create_model("mamba_lm_test", n_layer=1, padded_logits=True)
    folder = save_language_model(made, tmp_path / "theirs", layout="state-spaces")
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 61
    model = load_language_model(folder)
    assert model(torch.zeros(1, 3, dtype=torch.int64))[0].shape[-1] == 64 and model.config.padded_logits
    save_language_model(model, tmp_path / "hf", layout="huggingface")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["vocab_size"] == 64


def test_special_tokens_survive_every_layout(tmp_path):
    model, special = create_model("mamba_lm_test", vocab_size=256), {"bos_token_id": 3, "pad_token_id": 9}
    save_language_model(model, tmp_path / "a", layout="huggingface", ends=(7,), special=special)
    known = {"bos_token_id": 3, "eos_token_id": 7, "pad_token_id": 9}
    for before, layout in (("a", "ssmlab"), ("ssmlab", "state-spaces"), ("state-spaces", "huggingface")):
        assert call("convert", tmp_path / before, tmp_path / layout, "--to", layout) == 0
        name = "config.json" if layout == "huggingface" else "generation_config.json"
        assert json.loads((tmp_path / layout / name).read_text()).items() >= known.items(), layout


def test_a_converted_folder_of_before_is_refused(converted, tmp_path):
    """Its config.json counted the rows that fill up the embedding as tokens, without a word about it."""
    kind, _, folder, _ = converted
    size = KINDS[kind][0]
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": -(-size // 8) * 8}
    for file in folder.iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=f"has {config['vocab_size']} tokens, of which {size} exist: .* convert the run"
    ):
        load_language_model(tmp_path)
    (tmp_path / "preprocess.json").write_text("[]")  # nothing says what its tokens are
    with pytest.raises(ModelError, match="does not fit"):
        load_language_model(tmp_path)


FORM = {"user": 'Q: {text}\n"ja"\n', "assistant": "A: {text}\n", "system": "Ümlaut\\ {text}|"}


@pytest.mark.parametrize("to", ["huggingface", "ssmlab"])
def test_the_form_of_chats_is_a_template_of_transformers(tmp_path, to, capsys):
    trained(tmp_path / "ours", "bytes")
    about = json.loads((tmp_path / "ours" / "preprocess.json").read_text())
    (tmp_path / "ours" / "preprocess.json").write_text(json.dumps(about | {"template": FORM}))
    assert call("convert", tmp_path / "ours", tmp_path / "out", "--to", to) == 0
    assert "chat_template.jinja" not in capsys.readouterr().err
    assert (tmp_path / "out" / "chat_template.jinja").is_file() == (to == "huggingface")
    if to != "huggingface":
        return
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    chat = [("system", "be brief"), ("user", "hi\n"), ("assistant", "so 日"), ("user", "x"), ("assistant", "y")]
    messages = [{"role": role, "content": text} for role, text in chat]
    learned = chat_tokens("a", chat, FORM, lambda text: list(text.encode()), 256).tokens.tolist()
    assert words.apply_chat_template(messages, return_dict=False) == [256, *learned]
    asked = words.apply_chat_template(messages[1:2], add_generation_prompt=True, return_dict=False)
    assert bytes(asked[1:]).decode() == 'Q: hi\n\n"ja"\nA: ' and asked[0] == 256
    assert call("generate", tmp_path / "out", "--chat", "--prompt", "hi\n", "--max-tokens", "0") == 0
    assert f"prompt: {len(asked)} tokens" in capsys.readouterr().err
    with pytest.raises(Exception, match="the roles are user, assistant, system, got tool"):
        words.apply_chat_template([{"role": "tool", "content": "x"}])


def test_a_tokenizer_that_joins_the_parts_of_a_chat_is_reported(tmp_path, capsys):
    from tokenizers import Tokenizer, models

    pairs = Tokenizer(models.BPE({"H": 0, ":": 1, ":H": 2, "e": 3, "l": 4, "o": 5}, [(":", "H")]))
    pairs.add_special_tokens(["</s>"])
    save_language_model(create_model("mamba_lm_test", vocab_size=7), tmp_path / "ours")
    pairs.save(str(tmp_path / "ours" / "tokenizer.json"))
    form = {"user": ":{text}", "assistant": ":{text}"}
    for template, said in ((form, False), (form | {"assistant": "H{text}", "user": "{text}:"}, True)):
        (tmp_path / "ours" / "preprocess.json").write_text(
            json.dumps({"kind": "chat", "mark": 6, "template": template})
        )
        out = tmp_path / f"out{said}"
        assert call("convert", tmp_path / "ours", out) == 0 and (out / "chat_template.jinja").is_file()
        assert ("to other tokens than in training" in capsys.readouterr().err) == said
