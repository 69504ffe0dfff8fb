"""`ssmlab evaluate`: the run's own numbers to the last digit, transformers' loss, and other people's data."""

import json

import numpy as np
import pytest
import torch
from calling import call

import ssmlab
from ssmlab.core.record import read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.tasks.recipe import load_recipe

QUICK = ["evaluation.throughput_repeats=1", "evaluation.bootstrap=100", "name=small"]
RUNS = {
    "classification/digits_resnet18_vs_hybrid": ["models=[{name='resnet_test'}]", "data.limit=64", "training.epochs=1"],
    "language/text": ["models=[{name='mamba_lm_test'}]", "data.limit=20", "training.epochs=1"],
    "language/classify_text": ["models=[{name='mamba_lm_test'}]", "training.epochs=1"],
    "segmentation/own_folder": ["models=[{name='umamba_bot'}]", "training.iterations=2"],
}


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, *_: folder / "report.html")
        recipe = load_recipe(request.param, [*RUNS[request.param], *QUICK], smoke=True)
        run_recipe(recipe, output=folder)
    return folder / "small"


def numbers(records):
    return {(r.metric, r.class_): (r.value, r.unit, r.n, r.spread) for r in records}


def test_it_is_the_runs_own_test_to_the_last_digit(run, tmp_path, capsys):
    (folder,) = (run / "models").iterdir()
    own = [r for r in read_records(folder / "records.jsonl") if r.split == "test" and r.step is None]
    own = [r for r in own if r.metric != "constant_dice"]  # of the data, whatever the model
    file = tmp_path / "records.jsonl"
    assert call("evaluate", run, "--output", file, "--device", "cpu") == 0
    assert numbers(read_records(file)) == numbers(own)
    path = load_recipe(run).data.path
    assert call("evaluate", folder, "--data", path, "--output", file, "--device", "cpu") == 0
    assert numbers(read_records(file)) == numbers(own)
    assert "as the run has it" in capsys.readouterr().err


@pytest.fixture(scope="module")
def bytes_of_transformers(tmp_path_factory):
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=256, hidden_size=16, state_size=4, num_hidden_layers=2)
    theirs, folder = MambaForCausalLM(config).eval(), tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    return theirs, folder


def test_the_loss_is_that_of_transformers(bytes_of_transformers, tmp_path, capsys):
    theirs, folder = bytes_of_transformers
    text = "A model reads a text and is surprised. " * 5
    (tmp_path / "a.txt").write_text(text)
    tokens = torch.tensor([list(text.encode())])
    with torch.inference_mode():
        loss = theirs(tokens, labels=tokens).loss.item()
    assert (
        call("evaluate", folder, "--data", tmp_path / "a.txt", "--length", len(text), "--output", tmp_path / "o") == 0
    )
    found = {r.metric: r for r in read_records(tmp_path / "o")}
    assert found["loss"].value == pytest.approx(loss, rel=1e-6) and found["loss"].n == len(text) - 1
    assert found["perplexity"].value == pytest.approx(np.exp(loss), rel=1e-6)
    assert found["bits_per_byte"].value == pytest.approx(loss / np.log(2), rel=1e-6)
    assert "perplexity" in capsys.readouterr().out
    rows = [tokens[0, :50], tokens[0, 50:80]]
    with torch.inference_mode():
        losses = [theirs(row[None], labels=row[None]).loss.item() * (len(row) - 1) for row in rows]
    own = ssmlab.evaluate(folder, rows, progress=False, device="cpu").value("loss")
    assert own == pytest.approx(sum(losses) / 78, rel=1e-6)


def test_stride_is_the_sliding_window_of_transformers(bytes_of_transformers, tmp_path):
    """As transformers' page on perplexity does it: every window counts its last `stride` tokens."""
    theirs, folder = bytes_of_transformers
    text, length, stride = "Every token is counted exactly once. " * 4, 32, 8
    (tmp_path / "a.txt").write_text(text)
    tokens, nll, done = torch.tensor([list(text.encode())]), 0.0, 1
    for start in range(0, tokens.shape[1], stride):
        end = min(start + length + 1, tokens.shape[1])
        labels = tokens[:, start:end].clone()
        labels[:, : done - start] = -100
        if end > done:
            with torch.inference_mode():
                nll += theirs(tokens[:, start:end], labels=labels).loss.item() * (end - done)
        done = max(done, end)
    options = ("--length", length, "--stride", stride, "--output", tmp_path / "o")
    assert call("evaluate", folder, "--data", tmp_path / "a.txt", *options) == 0
    loss = next(r for r in read_records(tmp_path / "o") if r.metric == "loss")
    assert loss.n == len(text) - 1 and loss.value == pytest.approx(nll / (len(text) - 1), rel=1e-6)


def test_questions_in_json_lines(bytes_of_transformers, tmp_path, capsys):
    theirs, folder = bytes_of_transformers
    question = {"question": "The sky is", "choices": ["blue", "a very long answer"], "answer": 1}
    (tmp_path / "q.jsonl").write_text(f"{json.dumps(question)}\n\n{json.dumps(question | {'answer': 0})}\n")
    assert call("evaluate", folder, "--data", tmp_path / "q.jsonl", "--output", tmp_path / "o") == 0
    plain, _ = read_records(tmp_path / "o")
    nll = []
    for choice in question["choices"]:
        tokens = torch.tensor([list(f"The sky is {choice}".encode())])
        with torch.inference_mode():
            logs = theirs(tokens).logits[0, :-1].log_softmax(-1)
        taken = logs[torch.arange(len(logs)), tokens[0, 1:]][len("The sky is") - 1 :]
        nll.append(-taken.sum().item())
    assert plain.metric == "accuracy" and plain.value == 0.5 and plain.n == 2
    rows = [{"question": "The sky is", "choices": question["choices"], "answer": int(np.argmin(nll))}]
    assert ssmlab.evaluate(folder, rows, progress=False, device="cpu").value("accuracy") == 1
    answer = int(np.argmin(np.array(nll) / [len(" blue"), len(" a very long answer")]))
    found = ssmlab.evaluate(folder, [rows[0] | {"answer": answer}], progress=False, device="cpu")
    assert found.value("accuracy_length_normalised") == 1
    (tmp_path / "q.jsonl").write_text(f"{json.dumps(question)}\n{json.dumps(question | {'answer': 2})}\n")
    assert call("evaluate", folder, "--data", tmp_path / "q.jsonl") == 2
    assert "line 2: answer must be a number from 0 to 1, got 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no model 'nowhere'"),
        (["nowhere", "--part", "tst"], "--part must be train, val, test or all, got tst"),
        (["nowhere", "--documents", "word"], "--documents must be file or line, got word"),
        (["nowhere", "--output", "no/folder.jsonl"], "--output no/folder.jsonl cannot be written"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert call("evaluate", *arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_data_that_are_not_the_models(bytes_of_transformers, tmp_path, capsys):
    _, folder = bytes_of_transformers
    assert call("evaluate", folder) == 2
    assert "the model belongs to no run; give the path of data" in capsys.readouterr().err
    assert call("evaluate", folder, "--data", tmp_path / "none") == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["dna", "audio"])
def test_foreign_bases_and_sounds(kind, tmp_path, monkeypatch):
    """A language model of bases or sounds on other people's files: the loss counted by hand, sounds at its rate."""
    import wave

    from ssmlab.checkpoints.folder import save_model
    from ssmlab.data.sequences.wav import mu_law
    from ssmlab.models import create_model

    torch.manual_seed(0)
    mark = 5 if kind == "dna" else 256
    model = create_model("mamba_lm_test", vocab_size=mark + 1).eval()
    about = {"kind": kind, "tokenizer": "", "mark": mark, "length": 64} | ({"rate": 8000} if kind == "audio" else {})
    save_model(model, tmp_path / "model", about)
    rng = np.random.default_rng(0)
    if kind == "dna":
        (tmp_path / "data").mkdir()
        (tmp_path / "data/x.fa").write_text(">a\n" + "".join("ACGTN"[i] for i in rng.integers(0, 5, 40)) + "\n")
        tokens = ["ACGTN".index(c) for c in (tmp_path / "data/x.fa").read_text().split()[1]]
    else:
        (tmp_path / "data").mkdir()
        low = np.sin(np.arange(100) / 5) * 9000
        with wave.open(str(tmp_path / "data/x.wav"), "wb") as file:
            file.setparams((1, 2, 4000, 0, "NONE", ""))
            file.writeframes(low.astype("<i2").tobytes())
    assert call("evaluate", tmp_path / "model", "--data", tmp_path / "data", "--output", tmp_path / "o") == 0
    found = {r.metric: r for r in read_records(tmp_path / "o")}
    if kind == "audio":  # 100 samples at 4,000 are 200 at the model's 8,000
        assert found["loss"].n in (200, 201) and "bits_per_sample" in found
        assert len(mu_law(low / 32768)) == 100
        return
    row = torch.tensor([[mark, *tokens, mark]])
    labels = row[:, 1:].clone()
    labels[labels == 4] = -100  # N is read and not measured
    with torch.inference_mode():
        logits = model(row[:, :-1])[0]
    right = torch.nn.functional.cross_entropy(logits[0], labels[0], ignore_index=-100).item()
    assert found["loss"].n == int((labels != -100).sum()) and found["loss"].value == pytest.approx(right, rel=1e-5)
    total = right * found["loss"].n / np.log(2) / sum(token != 4 for token in tokens)
    assert found["bits_per_base"].value == pytest.approx(total, rel=1e-5)


def test_all_parts_of_foreign_data(tmp_path, capsys):
    from PIL import Image

    from ssmlab.checkpoints.folder import save_model
    from ssmlab.models import create_model

    about = {"image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "classes": ["b", "a"], "channels": 3}
    torch.manual_seed(0)
    save_model(create_model("resnet_test", num_classes=2, image_size=32), tmp_path / "model", about)
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(15):
            picture = rng.integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / "data" / label / f"{i}.png")
    counts = {}
    for part in ("train", "val", "test", "all"):
        options = ("--data", tmp_path / "data", "--part", part, "--output", tmp_path / "o")
        assert call("evaluate", tmp_path / "model", *options) == 0
        (found,) = [r for r in read_records(tmp_path / "o") if r.metric == "accuracy" and r.class_ is None]
        counts[part] = (found.n, round(found.value * found.n))
    assert counts["all"][0] == 30 == sum(counts[part][0] for part in ("train", "val", "test"))
    assert counts["all"][1] == sum(counts[part][1] for part in ("train", "val", "test"))
    files = sorted((tmp_path / "data").glob("*/*.png"))
    predicted = ssmlab.predict(tmp_path / "model", list(map(str, files)))
    assert counts["all"][1] == sum(p.label == file.parent.name for p, file in zip(predicted, files, strict=True))
    assert "its all part, 30 of 30 images" in capsys.readouterr().err
