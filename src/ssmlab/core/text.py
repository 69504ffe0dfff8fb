"""Words for messages: the nearest known name. Cells of tables that spreadsheets do not take for formulas."""

import csv
from collections.abc import Iterable
from difflib import get_close_matches
from types import SimpleNamespace

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a cell begins with that a spreadsheet computes


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean a, b?" or an empty text where nothing is close."""
    close = get_close_matches(name, list(known), n=3, cutoff=0.7)
    return f"; did you mean {', '.join(close)}?" if close else ""


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """A table as CSV. Text that a spreadsheet would execute gets an apostrophe, which `plain_cell` takes away again."""
    lines: list[str] = []
    writer = csv.writer(SimpleNamespace(write=lines.append))  # with its own end of a line it quotes a lone "\r" too
    for row in rows:
        writer.writerow([_harmless(cell) for cell in row])
    return "".join(f"{line[:-2]}\n" for line in lines)


def _harmless(cell: object) -> object:
    if isinstance(cell, int | float):
        return cell
    written = str(cell)
    if not written.lstrip("'").startswith(_FORMULA):
        return written
    try:
        float(written)
    except ValueError:
        return f"'{written}"
    return written


def plain_cell(cell: str) -> str:
    """What stood in a cell before `csv_text` made it harmless."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell
