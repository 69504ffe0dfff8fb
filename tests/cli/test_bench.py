"""`ssmlab bench ops`: the gate, the files, and one line for a mistake."""

import importlib
import json
import re

import pytest
import torch

from ssmlab.cli.main import main
from ssmlab.core.record import read_records
from ssmlab.ops._dispatch import BACKENDS, example
from ssmlab.profiling import bench
from ssmlab.profiling.bench import machine


def call(*arguments):
    try:
        main(list(arguments))
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.fixture
def small(monkeypatch):
    """The smallest shape of every operator, forward and backward."""
    full = machine.grid

    def grid(op, *, quick=False):
        return [next(s for s in full(op, quick=quick) if s.backward == backward) for backward in (False, True)]

    monkeypatch.setattr(machine, "grid", grid)


def test_names_are_those_of_the_operators_with_shapes():
    assert tuple(op for op in BACKENDS if example(op).full is not None) == bench.OPS


def test_help_shows_every_default(capsys):
    assert call("bench", "ops", "--help") == 0
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for default in ("default: cpu", "default: 0.2", "default: 0.5", "default: runs/bench-ops", "default: 0]"):
        assert default in shown


@pytest.mark.slow
def test_quick_writes_table_records_plots_and_settings(small, tmp_path, capsys):
    output = tmp_path / "bench"
    arguments = ("--quick", "--threads", "1", "--seconds", "0.001", "--output", str(output))
    for _ in range(2):  # a second time replaces the first
        assert call("bench", "ops", *arguments) == 0
    shown = capsys.readouterr().out
    assert "agrees with the reference" in shown and "nowhere slower than" in shown and str(output) in shown
    records = read_records(output / "records.jsonl")
    assert len({r.class_ for r in records}) == 2 * len(bench.OPS)
    for r in records:
        assert r.metric in ("time", "estimated_time") and r.value > 0 and r.unit == "seconds" and r.model
        assert r.machine and r.versions and r.time and r.command and r.run == "bench" and r.task == "bench ops"
    assert {"torch.exp", "copy", "transformers"} <= {r.model for r in records}
    settings = json.loads((output / "settings.json").read_text())
    assert settings["threads"] == 1 and settings["quick"] is True and settings["instructions"]
    assert settings["ops"] == list(bench.OPS) and "mambapy" in settings["versions"]
    table = (output / "table.md").read_text()
    assert table.count("### ") == 2 * len(bench.OPS) and "## Verdicts" in table
    assert len((output / "table.csv").read_text().splitlines()) == 1 + len(records)
    names = {path.name for path in output.rglob("*")}
    assert "selective_scan_forward.svg" in names and not any("partial" in name for name in names)


def test_suites_of_whole_models_have_their_table_and_records(tmp_path, capsys, monkeypatch):
    found = [
        bench.Result("images", "1 image", "vit", "images/s", (10.0, 20.0)),
        bench.Result("images", "", "vim", "", (), "no"),
    ]
    asked = []
    monkeypatch.setattr(machine, "suite", lambda *args, **kwargs: asked.append((args, kwargs)) or iter([found]))
    arguments = ("--suite", "vision", "--suite", "first", "--quick", "--output", str(tmp_path))
    assert call("bench", "ops", *arguments) == 0
    assert [args[0] for args, _ in asked] == ["vision", "first"] and asked[0][1] == {"quick": True}
    assert "### images" in capsys.readouterr().out and "### images" in (tmp_path / "table.md").read_text()
    assert {r.model for r in read_records(tmp_path / "records.jsonl")} == {"vit"}


def test_a_wrong_backend_stops_everything(small, tmp_path, capsys, monkeypatch):
    module = importlib.import_module("ssmlab.ops.causal_conv1d")  # the package; `ops.causal_conv1d` is its function
    right = module.causal_conv1d

    def wrong(x, *args, backend=None, **kwargs):
        y, state = right(x, *args, backend=backend, **kwargs)
        return (y if x.dtype.itemsize == 8 else y * 1.001), state

    monkeypatch.setattr(module, "causal_conv1d", wrong)
    monkeypatch.setattr(machine, "bench_ops", lambda *args, **kwargs: pytest.fail("timed all the same"))
    assert call("bench", "ops", "--quick", "--output", str(tmp_path / "bench")) == 1
    shown = capsys.readouterr().out
    assert "FAIL  causal_conv1d" in shown and "nothing is timed" in shown
    assert not (tmp_path / "bench").exists()


def test_an_opponent_that_is_wrong_is_left_out(small, tmp_path, capsys, monkeypatch):
    case = bench.Disagreement("causal_conv1d", "transformers", "float32", False, "error 2.0e-01, limit 1e-05")
    monkeypatch.setattr(machine, "disagreements", lambda *args: [case])
    arguments = ("--op", "causal_conv1d", "--quick", "--seconds", "0.001", "--output", str(tmp_path))
    assert call("bench", "ops", *arguments) == 0
    assert "left out: causal_conv1d transformers, float32: error" in capsys.readouterr().out
    assert "transformers" not in {r.model for r in read_records(tmp_path / "records.jsonl")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "selectiv_scan"], "unknown operator 'selectiv_scan'; did you mean selective_scan?"),
        (["--suite", "visoin"], "unknown suite 'visoin'; did you mean vision?"),
        (["--op", "fft"], "there are selective_scan, causal_conv1d"),
        (["--device", "tpu"], "--device must be cpu or cuda, got 'tpu'"),
        (["--device", "cuda"], "no CUDA device here"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert call("bench", "ops", *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_interrupting_writes_nothing(small, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "bench_ops", interrupted)
    assert call("bench", "ops", "--op", "causal_conv1d", "--output", str(tmp_path / "bench")) == 130
    assert "nothing was written" in capsys.readouterr().out and not (tmp_path / "bench").exists()
