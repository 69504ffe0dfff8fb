"""Runs on sequences: from recipes to records, reports and saved models; killed and continued; the carried state too."""

import json
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ssmlab.checkpoints.files import load_language_model
from ssmlab.checkpoints.folder import load_model
from ssmlab.core.device import memory_advice
from ssmlab.core.errors import DataError, RecipeError, UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.experiments.sweep import run_sweep
from ssmlab.reports.run_folder import load_run
from ssmlab.reports.verdict import winner
from ssmlab.studies.scaling.experiment import extrapolate
from ssmlab.tasks.language.rows import read_rows
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.table import experiment_of, load_data, report_of

TEXT = "language/text"
SMALL = ["data.limit=24", "data.length=32", "training.batch_size=8", "evaluation.throughput_repeats=1", "name=small",
         "evaluation.bootstrap=100"]  # fmt: skip
M = "{name='mamba_lm_test'}"
ONE = f"models=[{M}]"


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes longer than training here; the report has tests of its own."""
    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html")


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    return run_recipe(
        load_recipe(TEXT, SMALL, smoke=True), output=tmp_path_factory.mktemp("runs"), command="ssmlab run"
    )


def records_of(folder, **fields):
    return [r for r in read_records(folder / "records.jsonl") if all(getattr(r, k) == v for k, v in fields.items())]


def one(folder, **fields):
    (found,) = records_of(folder, **({"step": None, "class_": None} | fields))
    return found


def test_a_run_on_text_writes_everything(text_run):
    for label in ("mamba_lm_test", "mamba2_lm_test", "s4d_lm_test", "transformer_lm_test"):
        folder = text_run / "models" / label
        assert {"config.json", "model.safetensors", "preprocess.json", "rows.csv", "records.jsonl"} <= set(
            os.listdir(folder)
        )
        bits = one(text_run, model=label, metric="bits_per_byte", split="test")
        assert bits.spread[0] < bits.value < bits.spread[1] and bits.unit == "bits" and bits.task == "language"
        loss = one(text_run, model=label, metric="loss", split="test")
        sums = read_rows(folder / "rows.csv")
        assert loss.value == pytest.approx(sums[:, 0].sum() / sums[:, 1].sum(), rel=1e-5) and loss.n == sums[:, 1].sum()
        assert one(text_run, model=label, metric="perplexity", split="test").value == pytest.approx(
            math.exp(loss.value)
        )
        for metric in ("parameters", "macs_per_token", "tokens_per_second", "train_seconds"):
            assert one(text_run, model=label, metric=metric).value > 0, metric
        assert one(text_run, model=label, metric="peak_memory", class_="process").value > 0
        steps = [r.step for r in records_of(text_run, model=label, metric="bits_per_byte", split="val") if r.step]
        assert steps == [3, 6], "after every epoch"
    pair = one(text_run, model="mamba2_lm_test - mamba_lm_test", metric="bits_per_byte_difference")
    a, b = (
        one(text_run, model=m, metric="bits_per_byte", split="test").value for m in ("mamba2_lm_test", "mamba_lm_test")
    )
    assert pair.value == pytest.approx(a - b) and pair.spread[0] <= pair.value <= pair.spread[1]
    assert load_recipe(text_run) == load_recipe(TEXT, SMALL, smoke=True)


def test_bits_are_those_of_the_saved_model(text_run):
    recipe = load_recipe(TEXT, SMALL, smoke=True)
    network = load_language_model(text_run / "models" / "mamba_lm_test")
    rows = load_data(recipe).rows["test"]
    tokens, labels = torch.from_numpy(rows.tokens[:, :-1]).long(), torch.from_numpy(rows.labels())
    with torch.no_grad():
        logits = network(tokens, seq_idx=torch.from_numpy(rows.documents[:, :-1].copy()))[0][..., :257]
    nats = torch.nn.functional.cross_entropy(logits.mT, labels, ignore_index=-100, reduction="sum").item()
    letters = int(((labels != -100) & (labels != 256)).sum())
    said = one(text_run, model="mamba_lm_test", metric="bits_per_byte", split="test").value
    assert said == pytest.approx(nats / math.log(2) / letters, rel=1e-4)
    assert json.loads((text_run / "models" / "mamba_lm_test" / "preprocess.json").read_text())["mark"] == 256


def test_the_report_speaks_of_bits(text_run):
    run = load_run(text_run, report_of)
    answer = winner(run.records, run.task, titles=run.titles)
    values = {m: run.final(m, "bits_per_byte") for m in run.labels}
    assert answer.leader == min(values, key=values.get) and answer.difference.value >= 0
    assert "bits per byte" in answer.detail and "test tokens" in answer.detail
    page = (text_run / "report.html").read_text()
    assert "Bits per byte" in page and "Tokens per second" in page and "test image" not in page
    assert (text_run / "plots" / "curves-bits_per_byte.svg").is_file()


class InterruptAt(Progress):
    def __init__(self, title, step):
        self.wanted, self.step = title, step

    def start(self, title, *_, **__):
        self.title = title

    def update(self, done, note=""):
        if self.title == self.wanted and done == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        (TEXT, ["training.carry_state=true", f"models=[{M},{{name='mamba2_lm_test'}},{{name='s4d_lm_test'}}]"]),
        (TEXT, ["training.gradient_checkpointing=true", "training.keep=best", ONE]),
        ("language/selective_copying", [ONE, "data.examples=32", "seeds=[0]"]),
        ("language/classify_text", [ONE, "data.crop=random", "data.length=40"]),
    ],
)  # fmt: skip
def test_interrupted_and_resumed_is_bit_equal(tmp_path, no_report, recipe, changes):
    small = SMALL if "text" in recipe else [s for s in SMALL if "limit" not in s]
    loaded = load_recipe(recipe, [*small, *changes], smoke=True)
    label = loaded.models[-1].label
    with pytest.raises(KeyboardInterrupt):
        run_recipe(loaded, output=tmp_path / "cut", progress=InterruptAt(label, 4))
    checkpoints = tmp_path / "cut" / "small" / "models" / label / "checkpoints"
    assert (checkpoints / "checkpoint-4" / "carried.safetensors").is_file() == getattr(
        loaded.training, "carry_state", False
    )
    cut = run_recipe(loaded, output=tmp_path / "cut", resume=True)
    whole = run_recipe(loaded, output=tmp_path / "whole")
    a, b = (load_file(run / "models" / label / "model.safetensors") for run in (cut, whole))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert not checkpoints.exists()


def test_a_changed_text_is_noticed(tmp_path, no_report):
    file = tmp_path / "a.txt"
    file.write_text("To be, or not to be. " * 200)
    recipe = load_recipe(TEXT, [*SMALL, f"data.path={file}", ONE], smoke=True)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, output=tmp_path, progress=InterruptAt("mamba_lm_test", 2))
    file.write_text("To be, or not to bee " * 200)
    with pytest.raises(UserError, match="the rows or their parts are not those that the run was started with"):
        run_recipe(recipe, output=tmp_path, resume=True)


def test_attention_carries_no_state(tmp_path):
    recipe = load_recipe(TEXT, [*SMALL, "training.carry_state=true"], smoke=True)
    with pytest.raises(RecipeError, match="the state of transformer_lm_test grows with the text"):
        run_recipe(recipe, output=tmp_path)


def test_fine_tuning_starts_from_a_folder_and_learns_answers_only(text_run, tmp_path, no_report):
    start = text_run / "models" / "mamba_lm_test"
    file = tmp_path / "my.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i}?", "response": f"{i}!"}) + "\n" for i in range(40)))
    changes = [f"model={start}", f"data.path={file}", "data.length=64", "training.learning_rate=1e-12",
               "training.epochs=1", "seeds=[1,2]", *SMALL[3:4], SMALL[5]]  # fmt: skip
    recipe = load_recipe("language/finetune", changes)
    data = load_data(recipe)
    labels = np.concatenate([part.labels().ravel() for part in data.rows.values()])
    answers = bytes(label for label in labels.tolist() if 0 <= label < 256).decode()
    assert sorted(answers.split()) == sorted(f"{i}!" for i in range(40)) and (labels == 256).sum() == 40
    folder = run_recipe(recipe, output=tmp_path)
    assert sorted(path.name for path in (folder / "models").iterdir()) == [
        "bf16_seed1", "bf16_seed2", "float32_seed1", "float32_seed2",
    ]  # fmt: skip
    a, b = (load_file(path / "model.safetensors") for path in (start, folder / "models" / "float32_seed1"))
    assert all(torch.allclose(a[key], b[key], atol=1e-6) for key in a)
    for change, message in (
        ("model=", "no language model is named to start from; .* model=DIR .the models float32, bf16 of the recipe"),
        (f"model={tmp_path / 'mx.jsonl'}", "no such folder; did you mean my.jsonl"),
        ("model=runs/none", "model=runs/none: no such folder; give the folder"),
        (f"model={tmp_path}", "no config.json there; give the folder of a language model"),
        (f"model={folder}", f"has 4 models; name one: .*{folder.name}/models/bf16_seed1, "),
    ):
        with pytest.raises(UserError, match=message):
            load_data(load_recipe("language/finetune", [f"data.path={file}", change]))


def test_a_run_of_one_model_is_that_model(tmp_path):
    def started():
        return load_recipe("language/finetune", [f"model={tmp_path}", "data.path=x"]).model

    assert started() == str(tmp_path)
    first, second = (tmp_path / "models" / label for label in ("one", "two"))
    first.mkdir(parents=True)
    (first / "config.json").write_text("{}")
    assert started() == str(first)
    recipe = load_recipe("language/text", [f"models=[{{weights='{tmp_path}'}}]", "data.path=x"])
    assert recipe.models[0].weights == str(first)
    second.mkdir()
    (second / "config.json").write_text("{}")
    with pytest.raises(UserError, match="2 models; name one"):
        started()


def test_classifiers_are_saved_with_what_they_need(tmp_path, no_report):
    changes = ["data.limit=24", "training.epochs=1", "models=[{name='mamba_lm_test'},{name='transformer_lm_test'}]"]
    folder = run_recipe(load_recipe("language/classify_dna", changes, smoke=True), output=tmp_path)
    network, preprocess = load_model(folder / "models" / "mamba_lm_test")
    assert network.head.out_features == len(preprocess["classes"]) == 4 and preprocess["length"] == 96
    accuracy = one(folder, model="mamba_lm_test", metric="accuracy", split="test")
    run = load_run(folder, report_of)
    assert np.mean(run.predictions["mamba_lm_test"][None].correct) == accuracy.value and run.items == (
        "sequence",
        "sequences",
    )
    assert one(folder, model="transformer_lm_test - mamba_lm_test", metric="accuracy_difference").spread


def test_synthetic_tasks_are_tested_at_other_lengths(tmp_path):
    changes = [ONE, "data.test_lengths=[16,64]", "evaluation.throughput_repeats=1"]
    folder = run_recipe(load_recipe("language/induction_heads", changes, smoke=True), output=tmp_path)
    places = {r.class_ for r in records_of(folder, metric="accuracy", split="test")}
    assert places == {None, "length 16", "length 32", "length 64"}
    assert (folder / "plots" / "length-accuracy.svg").is_file()
    recipe = load_recipe("language/induction_heads", ["data.path=induction_head"])
    with pytest.raises(DataError, match="no synthetic task; did you mean 'induction_heads'"):
        load_data(recipe)


def test_epochs_have_new_sequences_and_the_parts_none_of_them():
    data = load_data(recipe := load_recipe("language/selective_copying", ["data.grow=0"], smoke=True))
    train, val = experiment_of(recipe, data)[0].parts(recipe, data, None)
    train.begin_epoch(0)
    first = train.arrays["tokens"].copy()
    train.begin_epoch(1)
    rows = [{row.tobytes() for row in tokens} for tokens in (first, train.arrays["tokens"], val.arrays["tokens"])]
    assert not rows[0] & rows[1] and not rows[0] & rows[2]
    train.begin_epoch(0)
    assert np.array_equal(train.arrays["tokens"], first)


def test_training_sequences_may_grow_but_the_parts_do_not():
    changes = ["data.grow=0.75", "training.epochs=16", "data.length=128", "data.data_tokens=8", "data.val_examples=7"]
    data = load_data(load_recipe("language/selective_copying", changes, smoke=True))
    assert data.describe["counts"]["val"] == 7 and data.describe["counts"]["test"] == 32
    sizes = [data.epoch(i)[0].shape[1] for i in (0, 2, 4, 6, 8, 10, 12, 15)]
    # two tokens in 8 places, all eight in 32, which stay, then the noise: by half an octave an epoch
    assert sizes == [8 + 2, 20 + 5, 32 + 8, 32 + 8, 32 + 8, 64 + 8, 128 + 8, 128 + 8]
    assert all((data.epoch(i)[1] != -100).sum(1).max() == count for i, count in ((0, 2), (2, 5), (4, 8), (15, 8)))
    assert data.val[0].shape[1] == data.test[0].shape[1] == 136
    one = load_data(load_recipe("language/selective_copying", [*changes[:3], "data.data_tokens=1"], smoke=True))
    assert [one.epoch(i)[0].shape[1] for i in (0, 3, 15)] == [4 + 1, 4 + 1, 128 + 1]
    both = replace(data, curriculum="together")
    assert [both.epoch(i)[0].shape[1] for i in (0, 6, 12)] == [16 + 2, 72 + 5, 128 + 8]
    assert replace(data, curriculum="none").epoch(0)[0].shape[1] == 128 + 8
    heads = load_data(load_recipe("language/induction_heads", [*changes[:3], "data.test_lengths=[]"], smoke=True))
    assert [heads.epoch(i)[0].shape[1] for i in (0, 6, 12, 15)] == [16, 72, 128, 128]


def test_what_length_costs(tmp_path):
    recipe = load_recipe(
        "language/length_scaling", ["data.prefill=[16,32,64,1000000]", "data.most_seconds=1"], smoke=True
    )
    folder = run_recipe(recipe, output=tmp_path)
    for label in ("mamba_lm_test", "transformer_lm_test"):
        found = {r.class_: r for r in records_of(folder, model=label, metric="prefill_seconds")}
        assert [r.n > 0 for r in found.values()] == [True, True, True, False] and list(found)[-1] == "length 1000000"
        assert records_of(folder, model=label, metric="decoding_seconds") and records_of(
            folder, metric="training_step_seconds"
        )
    page = (folder / "report.html").read_text()
    assert "Time and memory against length" in page and "Dashed: extrapolated" in page


def test_extrapolation_follows_the_power_law_of_the_last_two():
    assert extrapolate([], 5) == 0 and extrapolate([(10, 2.0)], 40) == 8
    assert extrapolate([(1, 99.0), (10, 3.0), (20, 12.0)], 80) == pytest.approx(192)
    assert extrapolate([(10, 3.0), (20, 2.0)], 80) == 2.0, "noise makes nothing faster"
    assert extrapolate([(10, 3.0), (20, 3.0)], 80, least=1.0) == 12.0


def test_a_sweep_gives_every_model_its_own_best(tmp_path):
    changes = [*SMALL, "models=[{name='mamba_lm_test'},{name='s4d_lm_test'}]", "training.epochs=1"]
    sweep = run_sweep(TEXT, [*changes, "training.learning_rate=1e-9,1e-2"], smoke=True, output=tmp_path)
    assert sweep.trials[0].metric == "bits_per_byte" and not sweep.trials[0].higher_is_better
    best = load_recipe(sweep.folder / "best.toml")
    for model in best.models:
        own = min(sweep.trials, key=lambda trial: trial.accuracies[model.label][0])
        assert best.training_of(model).learning_rate == float(own.changes["training.learning_rate"])
    assert best.training_of(best.models[0]).learning_rate == 1e-2


def test_too_little_memory_is_one_line_with_a_remedy():
    config = load_recipe(TEXT, ["data.path=x", "training.batch_size=32"]).training
    short = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    message = (
        r"^m: out of memory; try training.accumulation=2, which is the same update, training.batch_size=16 "
        r"\(now 32\), training.gradient_checkpointing=true"
    )
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), short):
        with pytest.raises(UserError, match=message) as told, memory_advice("m", config):
            raise error
        assert len(str(told.value).splitlines()) == 1
    with pytest.raises(RuntimeError, match="something else"), memory_advice("m", config):
        raise RuntimeError("something else")
