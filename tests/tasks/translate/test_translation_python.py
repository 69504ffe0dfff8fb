"""Translation from Python: fit, evaluate and predict on pairs of texts, and OPUS-MT's folders as a beginning."""

import json
from typing import ClassVar

import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import MarianConfig, MarianMTModel

import ssmlab
from ssmlab.checkpoints.folder import load_model
from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.data.pairs.marian import load_words
from ssmlab.data.pairs.subwords import load_subwords, train_subwords
from ssmlab.data.synthetic.pairs import generated_pairs
from ssmlab.experiments.run import run_recipe
from ssmlab.models import create_model
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.table import load_data
from ssmlab.tasks.translate.experiment import parts

PAIRS = list(zip(*generated_pairs(120), strict=True))
HOW = {"epochs": 2, "tokens_per_batch": 300, "updates_per_evaluation": 3, "device": "cpu", "progress": False}


def model(name="translation_mamba_test"):
    torch.manual_seed(0)
    return create_model(name, vocab_size=400)


def test_a_model_is_fitted_measured_saved_and_translates(tmp_path):
    found = ssmlab.fit(model(), "translate", PAIRS[:100], PAIRS[100:104], keep="best", label_smoothing=0.1,
                       source="en", target="fr", folder=tmp_path / "fit", **HOW)  # fmt: skip
    assert found.steps == 6
    assert {"eval_bleu", "eval_chrf", "eval_loss"} <= {key for row in found.history for key in row}
    words = load_subwords(tmp_path / "fit")
    assert words.size <= 400 and words.content == found.model.tokenizer.content
    about = json.loads((tmp_path / "fit" / "preprocess.json").read_text())
    assert (about["task"], about["source"], about["target"]) == ("translate", "en", "fr")
    texts = [source for source, _ in PAIRS[104:108]] + [" "]
    once = ssmlab.predict(found, texts, beams=2, device="cpu")
    again = ssmlab.predict(tmp_path / "fit", texts, beams=2, device="cpu")
    assert [one.text for one in once] == [one.text for one in again] and len(once) == 5 and once[-1].text == ""
    measured = ssmlab.evaluate(tmp_path / "fit", PAIRS[104:112], beams=1, device="cpu", progress=False)
    same = ssmlab.evaluate(found, "translate", PAIRS[104:112], beams=1, device="cpu", progress=False)
    assert measured.value("loss") == pytest.approx(same.value("loss"), rel=1e-5) and measured.value("bleu") >= 0
    assert "version" in next(record.unit for record in measured if record.metric == "bleu")


class Stream(IterableDataset):
    def __iter__(self):
        return iter(PAIRS)


def test_a_stream_of_pairs_is_read_once():
    listed, streamed = (ssmlab.fit(model(), "translate", data, **HOW).model for data in (PAIRS, Stream()))
    assert all(torch.equal(a, b) for a, b in zip(listed.parameters(), streamed.parameters(), strict=True))


def test_the_same_tokenizer_goes_on():
    words = train_subwords([text for pair in PAIRS for text in pair], 380)
    found = ssmlab.fit(model(), "translate", PAIRS, tokenizer=words, **HOW)
    assert found.model.tokenizer is words
    before = [p.clone() for p in found.model.parameters()]
    second = ssmlab.fit(found.model, "translate", PAIRS[:50], **HOW)
    assert second.model.tokenizer is words and any(
        (a != b).any() for a, b in zip(before, found.model.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("network", "pairs", "options", "message"),
    [
        (lambda: create_model("mamba_lm_test"), PAIRS, {}, "translate trains translation models, got mamba_lm_test"),
        (lambda: create_model("translation_mamba_test"), PAIRS, {}, "has 61; give vocab_size=4000 where it is created"),
        (model, ["a text"], {}, r"item 0 must be a pair of texts, \(source, target\), got 'a text'"),
        (model, PAIRS, {"beam": 3}, "has no option 'beam'"),
        (model, PAIRS, {"tokenizer": "large"}, r"the tokenizer has 4\d\d tokens, translation_mamba_test has 400; give"),
    ],
)
def test_what_does_not_fit_is_said(network, pairs, options, message):
    if "tokenizer" in options:
        options = {"tokenizer": train_subwords([text for pair in PAIRS for text in pair], 420)}
    with pytest.raises(UserError, match=message):
        ssmlab.fit(network(), "translate", pairs, **HOW | options)


@pytest.fixture(scope="module")
def opus(tmp_path_factory):
    """A random Marian model as transformers saves it, with vocabularies of sentencepiece."""
    spm = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("opus")
    for name, side in (("source", 0), ("target", 1)):
        text = iter([pair[side] for pair in PAIRS])
        spm.SentencePieceTrainer.train(sentence_iterator=text, model_prefix=str(folder / name), vocab_size=60,
                                       hard_vocab_limit=False,
                                       minloglevel=2)  # fmt: skip
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
    pieces = {}
    for name in ("source", "target"):
        one = spm.SentencePieceProcessor(str(folder / f"{name}.spm"))
        for i in range(one.get_piece_size()):
            pieces.setdefault(one.id_to_piece(i), None)
    names = ["</s>", "<unk>", *(word for word in pieces if word not in ("</s>", "<unk>", "<s>")), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(names)}))
    (folder / "tokenizer_config.json").write_text("{}")
    torch.manual_seed(0)
    pad = len(names) - 1
    MarianMTModel(
        MarianConfig(vocab_size=len(names), d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=24,
                     decoder_ffn_dim=24, encoder_attention_heads=2, decoder_attention_heads=2, pad_token_id=pad,
                     decoder_start_token_id=pad, eos_token_id=0, forced_eos_token_id=0, scale_embedding=True,
                     activation_function="swish", max_position_embeddings=64)
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_an_opus_mt_folder_is_fine_tuned_in_full_and_by_adapters(opus, tmp_path, monkeypatch):
    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html")
    recipe = load_recipe("translation/finetune", ["name=small", f"model={opus}", "data.limit=3"], smoke=True)
    data = load_data(recipe)
    words = load_words(opus)
    train, _ = parts(recipe, data, recipe.models[0])
    batch = train[0]
    assert (batch["tokens"][:, 0] == words.sep).all() and words.sep == words.size - 1
    rows = [row[row != -100].tolist() for row in batch["labels"]]
    sources = [row[mask].tolist() for row, mask in zip(batch["source"], batch["source_mask"], strict=True)]
    known = {tuple(words.encode(s)): [*words.target.encode(t), words.eos] for s, t in data.pairs["train"]}
    assert [known[tuple(source)] for source in sources] == rows
    folder = run_recipe(recipe, output=tmp_path)
    before = load_model(opus)[0].state_dict()
    for label in ("whole", "lora"):
        network, about = load_model(folder / "models" / label)
        changed = [key for key, tensor in network.state_dict().items() if not torch.equal(tensor, before[key])]
        assert any("embedding" in key for key in changed) and len(changed) > 5
        assert about["separator_id"] == words.sep and about["eos"] == 0
        assert load_words(folder / "models" / label).encode("a dog") == words.encode("a dog")
        assert len((folder / "models" / label / "test.hyp").read_text().split("\n")) == 4


def test_progress_of_an_evaluation_counts_sentences():
    class Counts(Progress):
        seen: ClassVar[list] = []

        def start(self, title, total, done=0, unit="items", per_step=1):
            self.seen.append((total, unit))

    found = ssmlab.fit(model(), "translate", PAIRS, **HOW)
    ssmlab.evaluate(found, PAIRS[:4], beams=1, device="cpu", progress=Counts())
    assert (4, "sentences") in Counts.seen
