"""`ssmlab explain` of texts: the tokens come back whole, the page has them in colours, and the scores are records."""

import json

import pytest
import torch
from calling import call

from ssmlab.checkpoints.folder import save_model
from ssmlab.core.record import read_records
from ssmlab.models import create_model
from ssmlab.models.language.sequence_classifier import SequenceClassifier
from ssmlab.studies.explain.texts import pieces

TEXT = "A good film <b>é</b>\n日本"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A classifier of texts, one of DNA, and a language model, all of few bytes."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    for kind, size in (("text", 256), ("dna", 5), ("audio", 256)):
        network = SequenceClassifier(create_model("mamba_lm_test", vocab_size=size), 2)
        about = {"kind": kind, "tokenizer": "bytes", "length": 64, "rate": 8000, "classes": ["bad", "good"]}
        save_model(network, folder / kind, about)
    save_model(create_model("mamba2_lm_test", vocab_size=256), folder / "language")
    return folder


@pytest.fixture
def explain(models, tmp_path, monkeypatch, capsys):
    """Calls the command in an empty folder; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def called(kind, *arguments, code=0):
        assert call("explain", models / kind, *arguments, "--device", "cpu") == code
        return capsys.readouterr()

    return called


def test_a_classifier_of_texts(explain, tmp_path):
    (tmp_path / "review.txt").write_text(TEXT)
    shown = explain("text", "review.txt", "--text", "Bad", "--classes", "good").out
    assert "review.txt: " in shown and "for good: " in shown and "Random order: deletion 0." in shown
    folder = tmp_path / "runs/explain-text"
    about = json.loads((folder / "explain.json").read_text())
    first, second = about["sequences"]
    (answer,) = first["answers"]
    assert "".join(piece["text"] for piece in answer["pieces"]) == TEXT and second["name"] == "Bad"
    assert sum(piece["attention"] for piece in answer["pieces"]) == pytest.approx(1, rel=1e-4)
    page = (folder / "report.html").read_text()
    assert "&lt;" in page and "<b>" not in page and "日" in page and '<span class="against"' in page
    rows = {(row.metric, row.class_): row.value for row in read_records(folder / "records.jsonl")}
    place = "review.txt / good"
    assert 0 < rows["probability", place] < 1 and abs(rows["completeness_error", place]) < 1
    for method in ("Integrated gradients", "Hidden attention", "Random order"):
        assert 0 < rows["deletion_auc", f"{place} / {method}"] < 1 and ("insertion_auc", f"{place} / {method}") in rows
    assert "holds an explanation already" in explain("text", "review.txt", code=2).err
    explain("text", "review.txt", "--overwrite", "--no-scores")
    assert {row.metric for row in read_records(folder / "records.jsonl")} == {"probability", "completeness_error"}


def test_a_language_model_and_its_next_token(explain, tmp_path):
    shown = explain("language", "--text", "Hello", "--output", "out").out
    assert "\nHello: '" in shown and "report: out/report.html" in shown
    assert "is better than chance, as it is not in its run's folder; --data DATA does" in shown
    explain("language", "--text", "Hello", "--output", "out", "--overwrite", "--classes", "x")
    answers = json.loads((tmp_path / "out/explain.json").read_text())["sequences"][0]["answers"]
    assert [answer["name"] for answer in answers] == ["'x'"]


def test_dna(explain, tmp_path):
    (tmp_path / "genes.fa").write_text(">one\nACGTACGT\n>two\nGGGG\n")
    shown = explain("dna", "genes.fa").out
    assert "ACGTACGT" in shown and "GGGG" in shown


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("text", (), "is a model of sequences; name files, - for standard input, or give --text TEXT"),
        ("text", ("--text", "x", "--classes", "fine"), "--classes 'fine' is no class of this model; there"),
        ("dna", ("--text", "ACGT"), "the model reads dna, no texts; name a file"),
        ("text", ("missing.txt",), "there is nothing to explain"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(explain, kind, arguments, message):
    shown = explain(kind, *arguments, code=2)
    assert message in shown.err and shown.out == ""


def test_pieces_of_a_sound_are_stretches():
    found = pieces(list(range(256)) * 4, torch.ones(1024), None, None)
    assert [piece.text for piece in found[:2]] == ["0-2 ", "3-5 "] and sum(piece.score for piece in found) == 1024
