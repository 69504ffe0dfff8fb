"""A table of models as HTML: two to four models side by side, more of them one below the other.

Nothing is cut off: where models are rows a row has at most eight measures, which fit 1280 pixels; on a phone every row
becomes a small list of its own, in which `data-label` says what each number is.
"""

from collections.abc import Sequence
from itertools import groupby

from ssmlab.reports.markup import Html, el, join, words
from ssmlab.reports.tables import Cell, Row, Table

MOST_COLUMNS = 4  # models side by side
MOST_MEASURES = 8  # side by side where models are rows


def to_html(table: Table, names: Sequence[Html], *, caption: str = "", what: str = "Comparison of the models") -> Html:
    """A table in the style of the reports.

    Args:
        names: of the models, with their marks, in the order of the table's columns.
        what: the box that scrolls where a window is too narrow, for readers that do not see it.
    """
    made = _columns(table, names, caption) if len(names) <= MOST_COLUMNS else _rows(table, names, caption)
    return el("div", made, class_="scroll", tabindex="0", role="region", aria_label=what)


def _columns(table: Table, names: Sequence[Html], caption: str) -> Html:
    rows: list[Html] = []
    for group, members in groupby(table.rows, lambda row: row.group):
        rows.append(el("tr", el("th", group, scope="colgroup", colspan=len(names) + 1), class_="group"))
        for row in members:
            cells = [_cell(cell, title) for cell, title in zip(row.cells, table.columns, strict=True)]
            rows.append(el("tr", el("th", row.label, scope="row", title=row.help or None), cells))
    corner = el("th", el("span", "Measure", class_="sr"), scope="col", class_="left")
    return el(
        "table",
        el("caption", caption) if caption else None,
        el("thead", el("tr", corner, [el("th", name, scope="col") for name in names])),
        el("tbody", rows),
        class_="comparison cards wide" + " stacked" * (len(names) > 2) + " undecided" * (not table.decided),
    )


def _rows(table: Table, names: Sequence[Html], caption: str) -> Html:
    """A table for every group of measures, or for every eight of them."""
    pieces: list[tuple[str, list[Row]]] = []
    for group, found in groupby(table.rows, lambda row: row.group):
        members = list(found)
        count = -(-len(members) // MOST_MEASURES)
        size = -(-len(members) // count)  # 9 measures are 5 and 4, not 8 and 1
        pieces += [(group, members[i : i + size]) for i in range(0, len(members), size)]
    made = []
    for number, (group, members) in enumerate(pieces):
        head = [el("th", row.label, scope="col", title=row.help or None) for row in members]
        body = [
            el("tr", el("th", name, scope="row"), [_cell(row.cells[model], row.label) for row in members])
            for model, name in enumerate(names)
        ]
        made.append(
            el(
                "table",
                el("caption", caption) if caption and number == len(pieces) - 1 else None,
                el("thead", el("tr", el("th", group, scope="col", class_="left"), head)),
                el("tbody", body),
                class_="models cards wide" + " decides" * (table.decided and number == 0),
            )
        )
    return join(made)


def _cell(cell: Cell, label: str) -> Html:
    best = el("span", " (best)", class_="sr") if cell.best else None
    value = el("span", words(cell.value), best, class_="best" if cell.best else None)
    detail = el("span", words(cell.detail), class_="detail") if cell.detail else None
    return el("td", el("div", value, " ", detail), data_label=label)
