"""Tables of numbers, and how each becomes text for the terminal, a part of a page, or Markdown.

On a page two to four models are side by side, more of them one below the other. Nothing is cut off: where models are
rows a row has at most eight measures, which fit 1280 pixels; on a phone every row becomes a small list of its own, in
which `data-label` says what each number is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from textwrap import wrap

from ssmlab.reports.markup import Html, el, join, words

MOST_COLUMNS = 4  # models side by side
MOST_MEASURES = 8  # side by side where models are rows
MOST_BESIDE = 6  # columns of a sheet in which an interval stands next to its value


@dataclass(frozen=True)
class Cell:
    """One place of a table: a number, and in `detail` its interval or its parts."""

    value: str
    detail: str = ""
    best: bool = False

    @property
    def text(self) -> str:
        return f"{self.value} {self.detail}".strip()


@dataclass(frozen=True)
class Row:
    """One measure; `cells` in the order of the table's columns, `help` says what it means."""

    label: str
    group: str
    cells: tuple[Cell, ...]
    help: str = ""


@dataclass(frozen=True)
class Table:
    """Models in columns, measures in rows: two or three models then fit a terminal and a phone.

    Args:
        columns: what each model is called; `labels` its name in the records; `notes` what the reader must know.
        decided: whether the first row is the primary metric, which is then set off.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    decided: bool = True

    @property
    def marked(self) -> bool:
        """Whether any cell is the best of its row."""
        return any(cell.best for row in self.rows for cell in row.cells)

    def unmarked(self, group: str | None = None) -> "Table":
        """The same without a best one, in all rows or in those of a group: where nothing decides which is better."""
        rows = (
            replace(row, cells=tuple(replace(cell, best=False) for cell in row.cells))
            if group in (None, row.group)
            else row
            for row in self.rows
        )
        return replace(self, rows=tuple(rows))


@dataclass(frozen=True)
class Sheet:
    """A table of texts, for the page and for papers.

    Args:
        title: what it shows. corner: heads the names of the rows, heads: the columns.
        rows: name and texts. note: what the reader must know.
    """

    title: str
    corner: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    note: str = ""

    @property
    def html(self) -> Html:
        """In a box that scrolls. Of many columns intervals stand below their values, so that all fit a page."""
        rows: Sequence[tuple[str, Sequence]] = self.rows
        if len(self.heads) > MOST_BESIDE:
            rows = [(name, [_below(cell) for cell in cells]) for name, cells in self.rows]
        table = plain_table(self.corner, self.heads, rows, caption=self.note or None, class_="wide wrapped")
        scroll = el("div", table, class_="scroll", tabindex="0", role="region", aria_label=self.title)
        return el("div", scroll, class_="card")

    @property
    def markdown(self) -> str:
        """With its title and its note."""
        rows = [(self.corner, *self.heads), ("---", *["---:"] * len(self.heads))]
        rows += [(name, *cells) for name, cells in self.rows]
        lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
        return "\n".join([f"## {self.title}", "", *lines, "", *([self.note, ""] if self.note else [])])


def _below(text: str) -> Html:
    """A cell with its interval, if it has one, in a line of its own."""
    value, bracket, rest = text.partition(" [")
    return join([value, el("span", f"[{rest}", class_="detail below") if bracket else None])


def sheets_of(table: Table) -> list[Sheet]:
    """A table of models as a sheet for every group of measures; the best values are in **bold**."""
    found = []
    for group, members in groupby(table.rows, lambda row: row.group):
        rows = tuple(
            (row.label, tuple(f"**{cell.text}**" if cell.best else cell.text for cell in row.cells)) for row in members
        )
        found.append(Sheet(group, "", table.columns, rows))
    return found


def best_cells(cells: Sequence[Cell], values: Sequence[float | None], better: int) -> tuple[Cell, ...]:
    """The cells, the best of them marked: all that print like it, and none where all print alike.

    Args:
        values: of the cells; None or nan where there is none.
        better: 1 where more is better, -1 where less is, 0 where neither.
    """
    known = [i for i, value in enumerate(values) if value is not None and math.isfinite(value)]
    if not better or len(known) < 2 or len({cells[i].value for i in known}) == 1:
        return tuple(cells)
    top = cells[max(known, key=lambda i: better * values[i])].value  # type: ignore[operator]
    return tuple(replace(cell, best=i in known and cell.value == top) for i, cell in enumerate(cells))


def to_rich(table: Table, which: slice = slice(None), *, stacked: bool = False):
    """For the terminal; best values are bold and carry a dot: colour is not needed.

    Args:
        which: models, since a narrow terminal has no room for many. The notes come with the last of them.
        stacked: details below their numbers, not after them.
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table as RichTable

    last = which.stop is None or which.stop >= len(table.columns)
    caption = "\n".join([*(map(escape, table.notes) if last else ()), *(["● best of the row"] if table.marked else [])])
    rich = RichTable(box=SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    rich.add_column("", no_wrap=True)
    for number in range(len(table.columns))[which]:
        title = heading(table.columns[number], [row.cells[number] for row in table.rows], stacked)
        rich.add_column(escape(title), justify="right")
    for group, rows in groupby(table.rows, lambda row: row.group):
        rich.add_row(f"[dim]{escape(group)}[/dim]")
        for row in rows:
            cells = []
            for cell in row.cells[which]:
                text = escape(cell.value if stacked else cell.text)
                text = f"[bold green]● {text}[/]" if cell.best else text
                cells.append(f"{text}\n[dim]{escape(cell.detail)}[/dim]" if stacked and cell.detail else text)
            rich.add_row(escape(row.label), *cells)
    return rich


def sheet_to_rich(sheet: Sheet):
    """A sheet for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table as RichTable

    rich = RichTable(
        box=SIMPLE_HEAD, pad_edge=False, title=escape(sheet.title), caption=escape(sheet.note),
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    rich.add_column(escape(sheet.corner))
    for number, head in enumerate(sheet.heads):
        widest = max((len(cells[number]) for _, cells in sheet.rows), default=0)  # names are wrapped, not numbers
        rich.add_column(escape(head), justify="right", min_width=widest)
    for name, cells in sheet.rows:
        rich.add_row(escape(name), *map(escape, cells))
    return rich


def heading(title: str, cells: Sequence[Cell], stacked: bool) -> str:
    """A model's title in as few lines as are no wider than its numbers, or than 16 letters: a terminal that is too
    narrow for long titles would otherwise put one word on a line."""
    texts = [text for cell in cells for text in ((cell.value, cell.detail) if stacked else (cell.text,))]
    return "\n".join(wrap(title, max(16, *(len(text) + 2 for text in texts)), break_long_words=False))


def to_markdown(table: Table) -> str:
    """A table for every group; best values are bold."""

    def line(cells) -> str:
        return f"| {' | '.join(cells)} |"

    lines: list[str] = []
    names = [column.replace("|", "\\|") for column in table.columns]
    for group, rows in groupby(table.rows, lambda row: row.group):
        lines += ["", f"## {group}", "", line(["", *names]), line(["---", *["---:"] * len(names)])]
        for row in rows:
            cells = [cell.text.replace("|", "\\|") for cell in row.cells]
            bold = [f"**{text}**" if cell.best else text for text, cell in zip(cells, row.cells, strict=True)]
            lines.append(line([row.label, *bold]))
    return "\n".join(lines).strip() + "\n"


def plain_table(
    corner: str, heads: Sequence[Html | str], rows: Sequence[tuple[Html | str, Sequence]], *,
    caption: str | None = None, class_: str | None = None,
) -> Html:  # fmt: skip
    """A table of other things than models and measures: the first column names each row."""
    top = el("tr", el("th", corner, scope="col", class_="left"), [el("th", head, scope="col") for head in heads])
    body = [el("tr", el("th", name, scope="row"), [el("td", cell) for cell in cells]) for name, cells in rows]
    return el("table", el("caption", caption) if caption else None, el("thead", top), el("tbody", body), class_=class_)


def to_html(table: Table, names: Sequence[Html], *, caption: str = "", what: str = "Comparison of the models") -> Html:
    """A table in the style of the reports.

    Args:
        names: of the models, with their marks, in the order of the table's columns.
        what: the box that scrolls where a window is too narrow, for readers that do not see it.
    """
    box = {"class_": "scroll", "tabindex": "0", "role": "region", "aria_label": what}
    if len(names) > MOST_COLUMNS:
        return el("div", _rows(table, names, caption), **box)
    rows: list[Html] = []
    for group, members in groupby(table.rows, lambda row: row.group):
        rows.append(el("tr", el("th", group, scope="colgroup", colspan=len(names) + 1), class_="group"))
        for row in members:
            cells = [_cell(cell, title) for cell, title in zip(row.cells, table.columns, strict=True)]
            rows.append(el("tr", el("th", row.label, scope="row", title=row.help or None), cells))
    corner = el("th", el("span", "Measure", class_="sr"), scope="col", class_="left")
    made = el(
        "table",
        el("caption", caption) if caption else None,
        el("thead", el("tr", corner, [el("th", name, scope="col") for name in names])),
        el("tbody", rows),
        class_="comparison cards wide" + " stacked" * (len(names) > 2) + " undecided" * (not table.decided),
    )
    return el("div", made, **box)


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
