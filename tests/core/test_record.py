import json

import pytest

from ssmlab.core.errors import UserError
from ssmlab.core.files import write_records
from ssmlab.core.record import Record, read_records

A = Record(metric="accuracy", value=0.5, model="a", class_="8 -> 3", spread=(0.4, 0.6), seed=1)
B = Record(metric="loss", value=float("nan"), step=3)


def test_records_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, [A, B])
    first, second = read_records(path)
    assert first == A
    assert second.step == 3
    assert second.value != second.value
    row = json.loads(path.read_text().splitlines()[0])
    assert row["class"] == "8 -> 3"
    assert "class_" not in row
    assert row["split"] is None


def test_half_a_line_at_the_end_is_left_out(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, [A, A])
    path.write_text(path.read_text() + A.to_json()[:40])
    assert read_records(path) == [A, A]


def test_a_last_line_without_newline_is_kept(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(A.to_json() + "\n" + A.to_json())
    assert read_records(path) == [A, A]


@pytest.mark.parametrize("line", ["{", "3", '{"model": "a"}', '"metric"'])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "records.jsonl"
    path.write_text(A.to_json() + "\n" + line + "\n" + A.to_json() + "\n")
    with pytest.raises(UserError, match=r"records\.jsonl, line 2"):
        read_records(path)
