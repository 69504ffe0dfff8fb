"""`ssmlab compare`."""

import pytest

from ssmlab.cli.main import main


def call(*arguments):
    """In this process; returns the exit code."""
    try:
        main(list(arguments))
    except SystemExit as end:
        return end.code or 0
    return 0


QUICK = ("--batch", "2", "--repeats", "1", "--image-size", "32", "--device", "cpu")


def test_the_table_the_front_and_the_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    output = tmp_path / "c"
    names = ["resnet_test", "vim_test", "medmamba_test", "vmamba_test"]
    assert call("compare", *names, *QUICK, "--no-train", "--output", str(output)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for row in (
        "MAC without the scan",
        "Images/s, batch 2",
        "Latency, 99 % of 10 calls",
        "First call, cold",
        "Inference",
    ):
        assert shown.count(row) == 2, "two tables, since four models do not fit 80 columns"
    assert "Training" not in shown and "not measured" in shown and "no --data" in shown
    assert "Pareto front" in shown and (output / "report.html").is_file()
    assert call("compare", "vim_test", *QUICK, "--output", str(output)) == 2
    assert "holds a comparison already" in capsys.readouterr().err
    assert call("compare", "vim_test", *QUICK, "--output", str(output), "--overwrite") == 0
    assert "Training images/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet81"], "there is no model 'resnet81'; did you mean resnet18"),
        (["mamba_lm_test"], "is a language model"),
        (["vim_test", "--device", "tpu"], "--device must be auto, cuda, mps or cpu, got 'tpu'"),
        (["vim_test", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["vim_test", "vmamba_test", "--weights", "x.pth"], "which model are these weights of?"),
        (["timm/resnet81"], "timm has no model 'resnet81'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("compare", *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("ssmlab: ") and captured.err.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_interrupted_it_leaves_nothing(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssmlab.studies.compare.measure.inference", interrupted)
    assert call("compare", "vim_test", *QUICK, "--output", str(tmp_path / "c")) == 130
    assert "nothing was written" in capsys.readouterr().out and not (tmp_path / "c").exists()
