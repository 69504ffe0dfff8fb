"""Runs that bits decide, and numbers against length: words, ranking, plots."""

import ast
from pathlib import Path

from ssmlab.core.files import write_records
from ssmlab.core.record import Record
from ssmlab.reports import lengths
from ssmlab.reports.comparison import comparison
from ssmlab.reports.primary_metric import primary_metric, signed
from ssmlab.reports.run_folder import load_run
from ssmlab.reports.verdict import winner
from ssmlab.tasks.table import TASKS, report_of

TASK = report_of("language")


def bits(model, value, seed=0, spread=None):
    return Record(
        task="language", model=model, split="test", metric="bits_per_base", value=value, unit="bits", n=900, seed=seed,
        spread=spread or (value - 0.1, value + 0.1),
    )  # fmt: skip


def difference(pair, value, low, high):
    of = {"task": "language", "model": pair, "split": "test"}
    return [
        Record(metric="bits_per_base_difference", value=value, spread=(low, high), **of),
        Record(metric="p_of_bits_per_base_difference", value=0.01, class_="Holm", **of),
    ]


def test_fewer_bits_win():
    records = [bits("a", 1.9), bits("b", 1.7), *difference("b - a", -0.2, -0.3, -0.1)]
    answer = winner(records, TASK)
    assert answer.clear and answer.leader == "b" and answer.difference == (0.2, 0.1, 0.3)
    assert answer.detail == (
        "1.700 bits per base against 1.900 bits per base for a, on 900 test tokens, one seed trained; 0.200 bits fewer "
        "(95 % interval +0.100 to +0.300, p = 0.01)."
    )
    unclear = winner([*records[:2], *difference("a - b", 0.2, -0.1, 0.5)], TASK)
    assert unclear.kind == "unclear" and "b is 0.200 bits ahead of a" in unclear.detail
    alone = winner(records[:1], TASK)
    assert alone.detail.startswith("needs 1.900 bits per base on 900 test tokens (95 % interval 1.800")


def test_the_row_of_bits_marks_the_least_and_has_an_interval_over_seeds():
    records = [bits(model, value + seed / 10, seed) for model, value in (("a", 1.9), ("b", 1.7)) for seed in (0, 1, 2)]
    row = next(row for row in comparison(records, TASK).rows if row.label == "Bits per base")
    assert [cell.best for cell in row.cells] == [False, True] and row.cells[1].text == "1.800 [1.532, 2.068]"


def test_the_primary_metric_is_the_first_that_was_measured():
    assert primary_metric([bits("a", 1.0)], TASK.primary).name == "bits per base"
    assert primary_metric([], TASK.primary).metric == "accuracy" == primary_metric([bits("a", 1.0)], ()).metric


def test_every_task_has_its_words():
    assert report_of("classify").items == ("image", "images") == report_of(None).items == report_of("unknown").items
    assert {name: report_of(name).items[1] for name in TASKS} == {
        "classify": "images", "language": "tokens", "classify_sequence": "sequences", "synthetic": "answers",
        "segment": "images", "scaling": "lengths", "robustness": "images", "misclassified": "images",
        "translate": "sentences", "vision_language": "tokens", "learning_curve": "images",
    }  # fmt: skip
    assert [report_of(name).per_pass("{Items} per {item}") for name in ("classify", "segment")] == [
        "Images per image", "Patches per patch",
    ]  # fmt: skip
    assert [signed(value) for value in (0.05, -0.05, 0.0001)] == ["+0.050", "−0.050", "0.000"]


def test_values_by_length_are_means_and_say_what_was_extrapolated(tmp_path):
    def record(length, value, seed, n):
        return Record(
            task="scaling", model="a", metric="prefill_seconds", value=value, class_=f"length {length}", seed=seed, n=n
        )

    write_records(
        tmp_path / "records.jsonl",
        [record(1024, 1.0, 0, 3), record(1024, 2.0, 1, 3), record(256, 0.1, 0, 3), record(4096, 9.0, 0, 0)],
    )
    run = load_run(tmp_path, report_of)
    (found,) = lengths.series(run, "prefill_seconds")
    assert found.lengths == (256, 1024, 4096) and found.values == (0.1, 1.5, 9.0)
    assert found.measured == (True, True, False)
    (plot,) = lengths.plots(run)
    assert plot.name == "length-prefill_seconds" and "Dashed: extrapolated" in plot.caption
    text = str(lengths.tables(run))
    assert "[9.00 s]" in text and "1.50 s" in text and "[1.50 s]" not in text
    assert [text in plot.svg for text in ("256<", "1,024<", "4,096<", "100 ms<", "1.00 s<")] == [True] * 5
    assert winner(run.records, run.task).headline == "Time and memory against length"


def test_reports_name_no_task():
    folder = Path(lengths.__file__).parent
    found = [
        f"{path.name}: {node.value}"
        for path in sorted(folder.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in TASKS
    ]
    assert not found
