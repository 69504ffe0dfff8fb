"""What studies share: a report's files."""

import json

import pytest

from ssmlab.core.errors import UserError
from ssmlab.core.record import Record, read_records
from ssmlab.core.stamp import Stamp
from ssmlab.reports.plots import Plot
from ssmlab.studies.study import Report, check_report_folder


@pytest.fixture
def report(tmp_path):
    stamp = Stamp(run="r", task="few", command="ssmlab few", commit=None, machine="m", versions="v")
    records = [Record(metric="accuracy", value=0.5)]
    return Report(
        folder=tmp_path / "r", records=records, settings={"seed": 3, "limit": 0}, stamp=stamp, started="a", finished="b"
    )


def test_every_file_is_written_and_the_folder_is_finished(report):
    path = report.write("few", {"models": ["x"]}, "<p>", table="|", plots=[Plot("p", "<svg>", "")], files={"a": b"1"})
    assert path.read_text() == "<p>" and [r.value for r in read_records(report.folder / "records.jsonl")] == [0.5]
    assert {str(f.relative_to(report.folder)) for f in report.folder.rglob("*") if f.is_file()} == {
        "few.json", "records.jsonl", "table.md", "plots/p.svg", "a", "report.html",
    }  # fmt: skip
    about = json.loads((report.folder / "few.json").read_text())
    assert about["finished"] == "b" and about["models"] == ["x"] and about["settings"]["seed"] == 3
    with pytest.raises(UserError, match=r"holds a test already \(finished b\)"):
        check_report_folder(report.folder, "few", "a test")


def test_what_was_interrupted_while_it_was_written_is_not_finished(report):
    with pytest.raises(AttributeError):
        report.write("few", {}, "<p>", plots=[None])
    assert json.loads((report.folder / "few.json").read_text())["finished"] is None
    assert check_report_folder(report.folder, "few", "a test") == report.folder


def test_the_page_leaves_out_settings_that_are_not_set(report):
    assert dict(report.facts(("Models", "x")))["Settings"] == "seed 3"
    assert dict(report.facts(settings="all"))["Settings"] == "all"
