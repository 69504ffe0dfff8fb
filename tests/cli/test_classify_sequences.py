"""`ssmlab classify` of texts, genes and sounds: the probabilities of the run, every mistake at once."""

import csv
import gzip
import io
import json
import sys
import wave

import numpy as np
import pytest
import torch
from calling import call

from ssmlab.checkpoints.folder import save_model
from ssmlab.experiments.run import run_recipe
from ssmlab.models import create_model
from ssmlab.models.language.sequence_classifier import SequenceClassifier
from ssmlab.tasks.recipe import load_recipe

QUICK = ["models=[{name='mamba_lm_test'}]", "training.epochs=1", "data.limit=0", "evaluation.throughput_repeats=1"]


def wav(path, samples, rate=8000):
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, rate, 0, "NONE", ""))
        sound.writeframes((np.asarray(samples) * 32767).astype("<i2").tobytes())


def write_texts(folder):
    for part, count in (("train", 8), ("test", 3)):
        for label, word in (("good", "fine é"), ("poor", "dull")):
            (folder / part / label).mkdir(parents=True)
            for i in range(count):
                (folder / part / label / f"{i}.txt").write_text(f"{word} {i}\r\n" * (i + 1), "utf-8", newline="")


def write_genes(folder):
    folder.mkdir()
    for name, bases in (("A", "acgtn"), ("B", "GGCCU")):
        records = "".join(f">{name}{i} more\n{bases * (i + 1)}\nR\n" for i in range(20))
        (folder / f"{name}.fa.gz").write_bytes(gzip.compress(records.encode()))


def write_sounds(folder):
    folder.mkdir()
    for digit in (0, 1):
        for index in range(14):
            wav(folder / f"{digit}_ada_{index}.wav", np.sin(np.arange(20 * index + 8) * (0.2 + digit)) * 0.8)


@pytest.fixture
def stdin(monkeypatch):
    """Calls with this on standard input."""

    def given(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return given


@pytest.mark.parametrize(("kind", "write"), [("text", write_texts), ("dna", write_genes), ("audio", write_sounds)])
def test_new_files_get_the_probabilities_of_the_run(kind, write, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html")
    write(tmp_path / "data")
    recipe = load_recipe(f"language/classify_{kind}", [f"data.path={tmp_path / 'data'}", *QUICK], smoke=True)
    run = run_recipe(recipe, output=tmp_path / "runs")
    with open(run / "models" / "mamba_lm_test" / "predictions.csv", newline="") as file:
        expected = {row["id"]: row for row in csv.DictReader(file)}
    table = tmp_path / "out.csv"
    assert call("classify", run, tmp_path / "data", "--csv", table, "--batch-size", "5") == 0
    with open(table, newline="") as file:
        found = {row["file"].removeprefix(f"{tmp_path / 'data'}/"): row for row in csv.DictReader(file)}
    assert expected and expected.keys() <= found.keys()
    for id, row in expected.items():
        assert found[id]["predicted"] == row["predicted"], id
        for name in row.keys() - {"id", "label", "predicted", "correct"}:
            assert float(found[id][name]) == pytest.approx(float(row[name]), abs=1e-5), (id, name)
    cooled = calibrated_rows(run, tmp_path)
    how = json.loads((run / "models" / "mamba_lm_test" / "preprocess.json").read_text("utf-8"))
    temperature, limit, positive = (how["calibration"][key] for key in ("temperature", "threshold", "positive"))
    for row, plain in zip(cooled, found.values(), strict=True):
        odds = {name: float(plain[f"p:{name}"]) ** (1 / temperature) for name in how["classes"]}
        assert float(row[f"p:{positive}"]) == pytest.approx(odds[positive] / sum(odds.values()), abs=1e-4)
        if abs(float(row[f"p:{positive}"]) - limit) > 1e-5:  # of what is printed
            assert (row["predicted"] == positive) == (float(row[f"p:{positive}"]) > limit)


def calibrated_rows(run, tmp_path):
    """What the command says of the data with the threshold of the validation part."""
    table = tmp_path / "calibrated.csv"
    assert call("classify", run, tmp_path / "data", "--csv", table, "--calibrated", "--threshold") == 0
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A classifier of every kind without training."""
    folder = tmp_path_factory.mktemp("models")
    for kind, size, rate in (("text", 256, 0), ("dna", 5, 0), ("audio", 256, 8000)):
        torch.manual_seed(0)
        network = SequenceClassifier(create_model("mamba_lm_test", vocab_size=size), 2).eval()
        about = {"kind": kind, "tokenizer": "bytes", "length": 12, "rate": rate, "classes": ["one", "two"]}
        save_model(network, folder / kind, about)
    return folder


def test_standard_input_is_a_text_or_a_text_a_line(models, stdin, tmp_path, capsys):
    texts = ("A film.\n", "Another,\nlonger than what the model reads")
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text)
    assert call("classify", models / "text", tmp_path) == 0
    said = [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()]
    for text, answer in zip(texts, said, strict=True):
        stdin(text.encode())
        assert call("classify", models / "text") == 0
        assert capsys.readouterr().out == f"stdin: {answer}\n"
    stdin(b"A film.\n\nAnother,\n")
    assert call("classify", models / "text", "-", tmp_path / "1.txt", "--lines", "--top-k", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split(": ")[0] for line in lines]
    assert names == ["stdin:1", "stdin:3", f"{tmp_path / '1.txt'}:1", f"{tmp_path / '1.txt'}:2"]
    assert lines[1].split(": ")[1] == lines[2].split(": ")[1]  # "Another," by both ways, whatever stands beside
    assert all("one " in line and "two " in line for line in lines)


def test_bases_and_sounds_on_standard_input(models, stdin, tmp_path, capsys):
    answers = []
    for content in (b"ACGTN", b">gene\nacg\ntN\n", gzip.compress(b"> \nACGUR")):
        stdin(content)
        assert call("classify", models / "dna", "-") == 0
        answers.append(capsys.readouterr().out.rsplit(": ", 1)[1])
    assert len(set(answers)) == 1
    wav(tmp_path / "a.wav", np.linspace(-1, 1, 30))
    assert call("classify", models / "audio", tmp_path / "a.wav") == 0
    stdin((tmp_path / "a.wav").read_bytes())
    assert call("classify", models / "audio") == 0
    file, piped = capsys.readouterr().out.splitlines()
    assert file.removeprefix(str(tmp_path / "a.wav")) == piped.removeprefix("stdin")


def test_all_that_cannot_be_read_is_named_after_the_others(models, tmp_path, capsys):
    noted: list[str] = []

    def problems(kind, *files):
        assert call("classify", models / kind, *files) == 2
        captured = capsys.readouterr()
        before, _, told = captured.err.rpartition("ssmlab: ")
        noted[:] = before.splitlines()
        return captured.out.splitlines(), f"ssmlab: {told}".splitlines()

    for name, content in (("good.txt", b"x"), ("empty.txt", b" \n"), ("latin.txt", b"caf\xe9"), ("a.fa", b">x\nACXT")):
        (tmp_path / name).write_bytes(content)
    shown, told = problems("text", *(tmp_path / name for name in ("empty.txt", "good.txt", "latin.txt", "gone.txt")))
    assert len(shown) == 1 and shown[0].startswith(f"{tmp_path / 'good.txt'}: ")
    assert told[0] == "ssmlab: 3 of 4 sequences cannot be read"
    assert told[1:] == [
        f"  {tmp_path / 'empty.txt'}: holds no text; remove it",
        f"  {tmp_path / 'latin.txt'}: not UTF-8 at byte 3; convert it, e.g. with iconv -t utf-8",
        f"  {tmp_path / 'gone.txt'}: no such file or folder; did you mean 'good.txt'?; expected a .txt file or a "
        "folder of them",
    ]
    (tmp_path / "no").mkdir()
    shown, told = problems("dna", tmp_path / "a.fa", tmp_path / "good.txt", tmp_path / "no")
    assert shown == [] and len(told) == 4
    assert "line 2: 'X' is no base" in told[1] and "begins with >name" in told[2] and "no .fa, .fasta" in told[3]
    wav(tmp_path / "fast.wav", np.zeros(9), rate=16000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "fast.wav").read_bytes()[:30])
    (tmp_path / "none.wav").write_bytes(b"")
    (tmp_path / "no.fa").write_bytes(b">a name\nACGT\n")
    shown, told = problems("audio", *(tmp_path / f"{name}.wav" for name in ("fast", "cut", "none")))
    assert len(shown) == 1 and shown[0].startswith(f"{tmp_path / 'fast.wav'}: ")
    assert any("fast.wav: resampled from 16,000 to the model's 8,000 samples per second" in line for line in noted)
    assert told[0] == "ssmlab: 2 of 3 sequences cannot be read" and len(told) == 3
    assert all("it is cut off; give a whole .wav" in line for line in told[1:])
    shown, told = problems("audio", tmp_path / "no.fa")
    assert shown == [] and "no.fa: no .wav of plain samples; give one, or convert the sound to 16 bit PCM" in told[1]


def test_a_mistake_is_one_line(models, tmp_path, capsys, monkeypatch):
    def message(*arguments):
        assert call("classify", *arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("ssmlab: ") and captured.err.count("\n") == 1 and captured.out == ""
        return captured.err

    assert "--lines is for texts" in message(models / "dna", "x.fa", "--lines")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert "there is nothing to classify" in message(models / "text")
    for name, content, words in (
        ("head.json", "{", "is not JSON"),
        ("head.json", '{"pool": "mean"}', "must hold an object with pool, classes"),
        ("preprocess.json", "[]", "must hold an object"),
        ("preprocess.json", '{"kind": "text", "length": 9}', "lacks 'classes'; train the model again"),
        (
            "preprocess.json",
            json.dumps({"kind": "text", "length": 9, "classes": ["a"]}),
            "names 1 classes and has 2 outputs",
        ),
        ("head.safetensors", "broken", "is not a safetensors file"),
    ):
        broken = tmp_path / f"{name}{len(words)}"
        broken.mkdir()
        for file in (models / "text").iterdir():
            (broken / file.name).write_bytes(file.read_bytes())
        (broken / name).write_text(content)
        assert words in message(broken, "x.txt"), content


def test_a_language_model_has_no_classes(tmp_path, capsys):
    from ssmlab.checkpoints.files import save_language_model

    folder = save_language_model(create_model("mamba_lm_test"), tmp_path / "model")
    (folder / "preprocess.json").write_text("{}")
    assert call("classify", folder, "x.png") == 2
    assert "is a language model, a model of images is needed; `ssmlab generate`" in capsys.readouterr().err
