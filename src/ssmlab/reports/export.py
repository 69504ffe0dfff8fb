"""A run's numbers out of its page: tables as LaTeX, CSV and Markdown, figures as PDF, methods in words, a card."""

from collections.abc import Sequence
from pathlib import Path

from ssmlab.core.files import write_atomically
from ssmlab.core.text import csv_text
from ssmlab.reports import calibration, class_tables, differences, theme
from ssmlab.reports.caveats import judged
from ssmlab.reports.comparison import comparison
from ssmlab.reports.html import draw
from ssmlab.reports.methods import model_card, paragraph
from ssmlab.reports.run_folder import Run, load_runs
from ssmlab.reports.tables import Sheet, sheets_of
from ssmlab.reports.task_report import ReportOf
from ssmlab.reports.verdict import Winner

FORMATS = ("latex", "csv", "markdown", "card")
FOLDER = "export"
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "−": "$-$", "×": r"$\times$", "–": "--", "“": "``", "”": "''", "·": r"$\cdot$", "●": r"$\bullet$", "→": r"$\to$",
    "|": r"\textbar{}", '"': "''", "\u202f": r"\,", "\u00a0": "~", "…": r"\dots{}",
}  # fmt: skip
_DOCUMENT = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{booktabs,graphicx}
\usepackage[margin=2cm]{geometry}
\begin{document}
"""


def export(folder: Path, report_of: ReportOf, formats: Sequence[str], others: Sequence[Path] = ()) -> list[Path]:
    """Write what is asked for into RUN/export/; returns the files.

    Args:
        folder: of the run. report_of, others: as for `write_report`.
        formats: of FORMATS. latex: tables.tex to be read into a paper, figures as PDF, and report.tex, which shows all
            of it with the methods; csv: tables.csv as they are shown and numbers.csv with all digits; markdown:
            tables.md with the methods; card: model-card.md.
    Raises:
        UserError: the folder is no run's.
    """
    run = load_runs(folder, report_of, others)
    verdict, sheets = judged(run), sheets_of_run(run)
    files: dict[str, str | bytes] = {}
    if "latex" in formats:
        figures = {f"{name}.pdf": made for name, plot in draw(run, verdict).items() if (made := theme.as_pdf(plot.svg))}
        files |= figures
        files["tables.tex"] = latex(sheets, notes_of(run, verdict))
        files["report.tex"] = document(run, verdict, list(figures))
    if "csv" in formats:
        files |= {"tables.csv": csv_text(_rows(sheets, notes_of(run, verdict))), "numbers.csv": csv_text(_numbers(run))}
    if "markdown" in formats:
        files["tables.md"] = markdown(run, verdict, sheets)
    if "card" in formats:
        files["model-card.md"] = model_card(run, verdict)
    for name, content in files.items():
        write_atomically(folder / FOLDER / name, content)
    return [folder / FOLDER / name for name in files]


def sheets_of_run(run: Run) -> list[Sheet]:
    """Every table of a run's page that is about its results."""
    return [
        *sheets_of(comparison(run.records, run.task, run.titles)),
        *differences.sheets(differences.of_run(run)),
        *calibration.sheets(run),
        *class_tables.sheets(run).values(),
        *(sheet for made in run.task.sheets for sheet in made(run)),
    ]


def notes_of(run: Run, verdict: Winner) -> list[str]:
    """What the reader of a table must know: the verdict, the intervals, the tests and what they assume."""
    notes = [verdict.sentence, *comparison(run.records, run.task, run.titles).notes]
    notes.append(run.task.interval.format(items=run.items[1], name=run.primary_metric.name))
    tested = differences.of_run(run)
    return notes + ([differences.assumptions(tested)] if tested.pairs else [])


def escaped(text: str) -> str:
    """A text as LaTeX prints it; **bold** as \\textbf. What pdfTeX has no letter for becomes a question mark."""
    if text.startswith("**") and text.endswith("**") and len(text) > 4:
        return rf"\textbf{{{escaped(text[2:-2])}}}"
    return "".join(_SPECIAL.get(c, c if ord(c) < 0x180 else "?") for c in text)


def latex(sheets: Sequence[Sheet], notes: Sequence[str]) -> str:
    """The tables with booktabs, each as wide as the text at most, and the notes below the first."""
    pieces = ["% needs \\usepackage{booktabs,graphicx}"]
    for number, sheet in enumerate(sheets):
        rows = [" & ".join(map(escaped, (sheet.corner, *sheet.heads))) + r" \\", r"\midrule"]
        rows += [" & ".join(map(escaped, (name, *cells))) + r" \\" for name, cells in sheet.rows]
        below = [*(notes if number == 0 else ()), *([sheet.note] if sheet.note else ())]
        pieces += [
            r"\begin{table}[htbp]", r"\centering", rf"\caption{{{escaped(sheet.title)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * len(sheet.heads)}}}", r"\toprule", *rows, r"\bottomrule", r"\end{tabular}}",
            *(rf"\par\smallskip\begin{{minipage}}{{\linewidth}}\footnotesize {escaped(text)}\end{{minipage}}"
              for text in below),
            r"\end{table}", "",
        ]  # fmt: skip
    return "\n".join(pieces)


def document(run: Run, verdict: Winner, figures: Sequence[str]) -> str:
    """A whole document: the verdict, the methods, the tables and the figures."""
    shown = "\n".join(
        rf"\begin{{figure}}[htbp]\centering\includegraphics[width=.7\linewidth]{{{name}}}"
        rf"\caption{{{escaped(name.removesuffix('.pdf').replace('-', ' ').capitalize())}}}\end{{figure}}"
        for name in figures
    )
    return (
        _DOCUMENT
        + f"\\section*{{{escaped(run.name)}}}\n{escaped(verdict.sentence)}\n\n"
        + f"\\subsection*{{Methods}}\n{escaped(paragraph(run))}\n\n"
        + f"\\input{{tables.tex}}\n{shown}\n\\end{{document}}\n"
    )


def markdown(run: Run, verdict: Winner, sheets: Sequence[Sheet]) -> str:
    """The verdict, the tables with their notes, and the methods."""
    lines = [f"# {run.name}", "", verdict.sentence, "", *(sheet.markdown for sheet in sheets)]
    return "\n".join([*lines, "## Notes", "", *notes_of(run, verdict)[1:], "", "## Methods", "", paragraph(run), ""])


def _rows(sheets: Sequence[Sheet], notes: Sequence[str]) -> list[list]:
    """The tables as they are shown, one cell a line; notes are lines of the table "note"."""
    rows: list[list] = [["table", "row", "column", "text"]]
    for sheet in sheets:
        for name, cells in sheet.rows:
            rows += [[sheet.title, name, head, cell.strip("*")] for head, cell in zip(sheet.heads, cells, strict=True)]
        rows += [["note", sheet.title, "", sheet.note]] if sheet.note else []
    return rows + [["note", "", "", text] for text in notes]


def _numbers(run: Run) -> list[list]:
    """Every number of the test part and of the costs with all digits: one line a seed."""
    rows: list[list] = [["model", "metric", "class", "seed", "value", "low", "high", "n", "unit"]]
    for r in run.records:
        if r.model is not None and r.step is None and r.split in (None, "test"):
            low, high = r.spread or ("", "")
            rows.append([r.model, r.metric, r.class_ or "", "" if r.seed is None else r.seed, r.value, low, high,
                         "" if r.n is None else r.n, r.unit or ""])  # fmt: skip
    return rows
