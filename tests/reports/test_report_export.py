"""Tables for papers, figures as PDF, methods in words, the model card."""

import csv
import re
import shutil
import subprocess

import pytest
from fake_run import Fake, make_run

from ssmlab.core.files import write_records
from ssmlab.core.record import Record, read_records
from ssmlab.reports.export import escaped, export, latex
from ssmlab.reports.methods import paragraph
from ssmlab.reports.run_folder import load_run
from ssmlab.reports.tables import Sheet
from ssmlab.tasks.table import report_of


def test_everything_that_is_asked_for_is_written(tissue):
    files = {path.name: path for path in export(tissue, report_of, ("latex", "csv", "markdown", "card"))}
    wanted = {"tables.tex", "report.tex", "tables.csv", "numbers.csv", "tables.md", "model-card.md", "roc.pdf"}
    assert wanted <= files.keys() and all(path.parent == tissue / "export" for path in files.values())
    assert files["roc.pdf"].read_bytes().startswith(b"%PDF")
    assert [path.name for path in export(tissue, report_of, ("card",))] == ["model-card.md"]
    text = files["tables.tex"].read_text("utf-8")
    assert re.search(r"^Accuracy & .*\\% \[[\d.]+, [\d.]+\]", text, re.M) and "McNemar's exact test" in text
    assert "Holm" in text and "one seed trained" in text  # the footnotes
    well_formed(text)
    well_formed(files["report.tex"].read_text("utf-8"))


def well_formed(text):
    """What a TeX would stumble over: braces, environments, characters that mean something."""
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert sorted(re.findall(r"\\begin\{(\w+)\}", text)) == sorted(re.findall(r"\\end\{(\w+)\}", text))
    for row in re.findall(r"^.*\\\\$", text, re.M):
        assert row.count("&") - row.count(r"\&") == text_columns(text, row)


def text_columns(text, row):
    """How many columns the table has that a row belongs to, less one."""
    before = text[: text.index(row)]
    return len(re.findall(r"\\begin\{tabular\}\{(l?r*)\}", before)[-1]) - 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(hostile, tissue):
    for folder in (hostile, tissue):
        export(folder, report_of, ("latex",))
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
        done = subprocess.run(command, cwd=folder / "export", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]


def test_csv_has_every_number_with_all_digits(digits):
    export(digits, report_of, ("csv",))
    with open(digits / "export" / "numbers.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    accuracy = next(row for row in rows if (row["model"], row["metric"], row["class"]) == ("resnet18", "accuracy", ""))
    record = next(
        r for r in read_records(digits / "records.jsonl")
        if (r.model, r.metric, r.split, r.step, r.class_) == ("resnet18", "accuracy", "test", None, None)
    )  # fmt: skip
    assert float(accuracy["value"]) == record.value and float(accuracy["low"]) == record.spread[0]
    with open(digits / "export" / "tables.csv", newline="", encoding="utf-8") as file:
        shown = list(csv.DictReader(file))
    assert any(row["row"] == "Accuracy" and row["column"] == "ResNet-18" for row in shown)
    assert any(row["table"] == "note" and "Holm" in row["text"] for row in shown)


def test_hostile_names_are_escaped(hostile):
    export(hostile, report_of, ("latex", "markdown"))
    text = (hostile / "export" / "tables.tex").read_text("utf-8")
    assert "<script>" not in text and r"\textless{}script\textgreater{}" in text
    well_formed(text)
    assert escaped("a_b & 50 % {x} #1 ~ ^ \\ $y$") == (
        r"a\_b \& 50 \% \{x\} \#1 \textasciitilde{} \textasciicircum{} \textbackslash{} \$y\$"
    )
    assert escaped("**−1.5**") == r"\textbf{$-$1.5}" and escaped("日") == "?"
    assert r"\footnotesize n" in latex([Sheet("t", "c", ("h",), (("r", ("1",)),))], ["n"])


def test_methods_are_sentences_of_the_recipe(digits, tmp_path):
    text = paragraph(load_run(digits, report_of))
    assert "1,294 images for training, 143 images for validation and 360 images for test" in text
    assert "We trained ResNet-18 (11.3 M parameters) and ResNet-18 + Mamba (12.4 M parameters)." in text
    assert "Optimiser adamw, learning rate 0.001" in text and "batch size 64, 12 epochs" in text and "Seed: 0." in text
    assert (
        "The difference has p-values by" in text
        and "corrected by Holm" in text
        and "at least 6 independent cases" in text
    )
    grouped = make_run(tmp_path / "run", Fake(seeds=(0, 1)), images=0)
    run = load_run(grouped, report_of)
    run.info["data"] |= {"group": "patient", "groups": {"train": 90, "val": 10, "test": 36}}
    text = paragraph(run)
    assert (
        "360 images of 36 groups for test" in text and "All cases with the same patient were kept in one part." in text
    )
    assert "Seeds: 0, 1." in text and "the error of the cases and of the seeds" in text
    assert "Wilson's over the test groups" in text
    recipe = grouped / "recipe.toml"
    recipe.write_text(recipe.read_text() + '\n[[models]]\nlabel = "resnet18_mamba"\nfit = "logistic_regression"\n')
    text = paragraph(load_run(grouped, report_of))
    assert "ResNet-18 + Mamba: the network was not trained, scikit-learn fitted its linear classifier" in text
    assert "Optimiser adamw" in text, "of the other model"


def test_a_recipe_that_was_changed_by_hand_is_no_failure(digits):
    run = load_run(digits, report_of)
    for recipe in (
        "training = 3",
        "data = 'x'\nmodels = 4",
        "[training]\nlearning_rate = 'high'\nwarmup = 'some'",
        "= =",
    ):
        run.recipe = recipe
        assert "We trained ResNet-18" in paragraph(run)
    run.info |= {"models": None, "data": {"counts": 3, "groups": []}}
    assert "We trained" in paragraph(run)


def test_a_card_says_what_models_are_for_and_what_is_not_known(digits):
    export(digits, report_of, ("card",))
    text = (digits / "export" / "model-card.md").read_text("utf-8")
    for heading in ("Models", "Intended use", "Training and data", "Results on the test part", "Limits", "How to use"):
        assert f"## {heading}" in text
    assert "One seed was trained" in text and "Not a medical device" in text and "ssmlab classify" in text


def test_a_calibrated_run_has_its_tables(tmp_path):
    folder = make_run(tmp_path / "run", images=0)
    records = read_records(folder / "records.jsonl")
    for label in ("resnet18", "resnet18_mamba"):
        for metric, value in (("temperature", 1.5), ("ece", 0.1), ("ece_calibrated", 0.02), ("brier", 0.2),
                              ("brier_calibrated", 0.18), ("loss_calibrated", 0.4)):  # fmt: skip
            records.append(Record(model=label, seed=0, split="test", metric=metric, value=value, n=360,
                                  spread=(0.9 * value, 1.1 * value)))  # fmt: skip
    (folder / "records.jsonl").unlink()
    write_records(folder / "records.jsonl", records)
    export(folder, report_of, ("markdown", "latex"))
    text = (folder / "export" / "tables.md").read_text("utf-8")
    assert (
        "## Calibration" in text and "| ResNet-18 | 1.50 |" in text and "10.0 % [9.0, 11.0] | 2.0 % [1.8, 2.2]" in text
    )
    assert "calibrated by a temperature fitted on the validation part" in text
    assert (folder / "export" / "reliability.pdf").is_file()
