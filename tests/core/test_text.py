"""Cells of tables: what a spreadsheet would execute is text there, and reads back as it was."""

import csv
import io

import pytest

from ssmlab.core.text import csv_text, plain_cell

HOSTILE = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''+x", "=", "-"]


@pytest.mark.parametrize("text", HOSTILE)
def test_formulas_are_text(text):
    written = csv_text([[text, 1]])
    ((cell, number),) = csv.reader(io.StringIO(written, newline=""))
    assert cell.startswith("'") and number == "1"
    assert plain_cell(cell) == text


@pytest.mark.parametrize("text", ["cat", "a,b", 'a"b', "-0.5", "+1e-3", "", "'quoted'", "it's", "p:=x", "-inf", "ä=ö"])
def test_all_else_is_as_it_was(text):
    ((cell, _),) = csv.reader(io.StringIO(csv_text([[text, 1]]), newline=""))
    assert cell == text == plain_cell(cell)


def test_numbers_stay_numbers():
    assert csv_text([[-1, 0.5, "-1e-3"]]) == "-1,0.5,-1e-3\n"
