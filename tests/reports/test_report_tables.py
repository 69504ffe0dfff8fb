import io
import math
import re
from html import unescape

import pytest
from rich.console import Console

from ssmlab.core.record import Record
from ssmlab.reports.comparison import comparison
from ssmlab.reports.run_folder import load_run
from ssmlab.reports.tables import to_rich
from ssmlab.tasks.table import report_of

TASK = report_of("classify")


def record(model, metric, value, **more):
    split = None if metric in ("parameters", "macs", "scan_macs", "images_per_second", "tokens") else "test"
    return Record(**{"model": model, "metric": metric, "value": value, "split": split, "seed": 0, **more})


def cells(table, label):
    row = next(row for row in table.rows if row.label == label)
    return [cell.text for cell in row.cells], [cell.best for cell in row.cells]


TWO = [
    record("a", "accuracy", 348 / 360, n=360),
    record("b", "accuracy", 0.95, n=360, spread=(0.92, 0.97)),
    record("a", "loss", 0.1234),
    record("b", "loss", 0.25),
    record("a", "parameters", 12_412_000),
    record("b", "parameters", 11_310_000),
    record("a", "macs", 1.8e9),
    record("b", "macs", 1.7e9),
    record("a", "scan_macs", 5.4e6),
    record("b", "scan_macs", 0),
    record("a", "images_per_second", 1040.2, n=10, spread=(990, 1070)),
    record("a", "tokens", 16),
]


def test_numbers_are_written_for_people_and_the_best_is_marked():
    table = comparison(TWO, TASK)
    assert table.columns == ("a", "b")
    assert cells(table, "Accuracy") == (["96.7 % [94.3, 98.1]", "95.0 % [92.0, 97.0]"], [True, False])
    assert cells(table, "Loss") == (["0.123", "0.250"], [True, False])
    assert cells(table, "Parameters") == (["12.4 M", "11.3 M"], [False, True])
    assert cells(table, "MAC per image") == (["1.8 G scan 0.3 %", "1.7 G"], [False, True])
    assert cells(table, "Images per second") == (["1,040 (990 to 1,070)", "–"], [False, False])
    assert cells(table, "Tokens") == (["16", "–"], [False, False])


def test_the_primary_metric_comes_first():
    kinds = {
        "segment": ("dice", "loss", "total_dice"),
        "language": ("bits_per_byte", "token_accuracy", "loss"),
        "classify": ("accuracy", "loss", "f1"),
    }
    for task, (metric, *others) in kinds.items():
        records = [record("a", name, 0.5, class_="macro" if name == "f1" else None) for name in (*others, metric)]
        table = comparison([record("a", "parameters", 7), *records], report_of(task))
        assert table.rows[0].label == {"bits_per_byte": "Bits per byte"}.get(metric, metric.capitalize())
        assert [row.group for row in table.rows][-1] == "Cost" and table.decided


def test_segmentation_counts_patches():
    costs = [record("a", metric, 100, task="segment") for metric in ("macs", "flops", "images_per_second")]
    assert [row.label for row in comparison(costs, report_of("segment")).rows] == [
        "MAC per patch",
        "FLOP per patch",
        "Patches per second",
    ]


def test_where_lengths_are_compared_no_model_is_best():
    table = comparison(
        [record(model, "parameters", n, task="scaling") for n, model in enumerate("abc")], report_of("scaling")
    )
    assert cells(table, "Parameters") == (["0", "1", "2"], [False] * 3)
    assert not table.decided and "best" not in printed(table, 80)


def test_what_was_not_measured_has_no_row():
    assert [row.label for row in comparison([record("a", "accuracy", 0.5)], TASK).rows] == ["Accuracy"]


def test_values_that_print_alike_are_not_told_apart():
    table = comparison([record("a", "accuracy", 0.95001), record("b", "accuracy", 0.95002)], TASK)
    assert cells(table, "Accuracy")[1] == [False, False]
    three = [record("a", "accuracy", 0.95001), record("b", "accuracy", 0.95002), record("c", "accuracy", 0.9)]
    assert cells(comparison(three, TASK), "Accuracy")[1] == [True, True, False]


def test_curves_and_validation_are_left_out_and_the_last_measurement_counts():
    records = [
        record("a", "accuracy", 0.5),
        record("a", "accuracy", 0.6),
        record("a", "accuracy", 0.7, step=3),
        record("a", "accuracy", 0.8, split="val"),
    ]
    assert cells(comparison(records, TASK), "Accuracy")[0] == ["60.0 %"]


def test_a_diverged_model_is_shown_and_not_best():
    table = comparison([record("a", "loss", math.nan), record("b", "loss", 0.5), record("c", "loss", 0.6)], TASK)
    assert cells(table, "Loss") == (["not a number", "0.500", "0.600"], [False, True, False])


def test_seeds_become_a_mean_with_students_interval():
    records = [record("a", "accuracy", value, seed=seed) for seed, value in enumerate((0.94, 0.95, 0.96))]
    records += [record("b", "accuracy", 0.9, seed=0), record("b", "accuracy", 0.91, seed=1)]
    table = comparison(records, TASK)
    assert cells(table, "Accuracy")[0] == ["95.0 % [92.5, 97.5]", "90.5 % [84.1, 96.9]"]
    assert any("Mean of 3 seeds" in note for note in table.notes)
    assert any("a 3 and b 2" in note for note in table.notes)


def test_an_interval_of_a_fraction_stays_in_the_unit_interval():
    records = [record("a", "accuracy", value, seed=seed) for seed, value in enumerate((0.9, 1.0))]
    assert cells(comparison(records, TASK), "Accuracy")[0] == ["95.0 % [31.5, 100.0]"]


def test_sensitivity_names_its_class():
    records = [record("a", metric, 0.9, class_="SSA") for metric in ("sensitivity", "specificity")]
    assert [row.label for row in comparison(records, TASK).rows] == ["Sensitivity (SSA)", "Specificity (SSA)"]


def printed(table, width):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(to_rich(table))
    return console.file.getvalue()


def test_the_terminal_and_the_page_show_the_same_table(digits):
    run = load_run(digits, report_of)
    table = comparison(run.records, run.task, run.titles)
    terminal = printed(table, 200)
    page = (digits / "report.html").read_text()
    page = page[page.index("<table") : page.index("</table>")]
    rows = [
        [
            unescape(re.sub(r"\s+", " ", re.sub("<[^>]+>", "", cell))).strip()
            for cell in re.findall("<t[hd].*?</t[hd]>", row)
        ]
        for row in re.findall("<tr>.*?</tr>", page)
    ]
    assert len(table.rows) > 12
    for row in table.rows:
        on_page = next(cells for cells in rows if cells[0] == row.label)
        assert [text.replace(" (best)", "") for text in on_page[1:]] == [cell.text for cell in row.cells]
        line = next(line for line in terminal.splitlines() if line.strip().startswith(row.label))
        assert re.split(r"\s{2,}", line.strip())[1:] == [("● " if c.best else "") + c.text for c in row.cells]


def test_two_models_fit_eighty_columns(digits):
    run = load_run(digits, report_of)
    wide, narrow = (printed(comparison(run.records, run.task, run.titles), width) for width in (200, 80))
    assert len(wide.splitlines()) == len(narrow.splitlines())


def test_a_name_with_brackets_is_no_markup_in_the_terminal():
    assert "[red]a[/red]" in printed(comparison([record("[red]a[/red]", "accuracy", 0.5)], TASK), 100)


@pytest.mark.parametrize(("share", "text"), [(0.0001, "under 0.1 %"), (0.0006, "0.1 %")])
def test_a_small_scan_is_not_zero(share, text):
    table = comparison([record("a", "macs", 1e9), record("a", "scan_macs", share * 1e9)], TASK)
    assert cells(table, "MAC per image")[0] == [f"1 G scan {text}"]


@pytest.mark.parametrize("n", [5, 6])
def test_too_few_cases_have_no_best_quality(n):
    table = comparison(
        [record(m, metric, v, n=n) for m, v in (("a", 0.2), ("b", 0.8)) for metric in ("accuracy", "parameters")], TASK
    )
    assert cells(table, "Accuracy")[1] == ([False, False] if n == 5 else [False, True])
    assert any(cells(table, "Parameters")[1])


def test_the_memory_of_a_process_is_no_models():
    whole = [record(m, "peak_memory", v, class_="process") for m, v in (("a", 1e9), ("b", 2e9))]
    assert cells(comparison([*TWO, *whole], TASK), "Peak memory, process")[1] == [False, False]
    own = [record(m, "peak_memory", v) for m, v in (("a", 1e9), ("b", 2e9))]
    assert cells(comparison([*TWO, *own], TASK), "Peak memory")[1] == [True, False]


def test_tokens_that_are_scanned_but_not_counted():
    table = comparison(
        [*TWO, record("c", "accuracy", 0.9), record("c", "scan_macs", 5e6), record("c", "macs", 1e9)], TASK
    )
    assert cells(table, "Tokens")[0] == ["16", "–", "not counted"]
