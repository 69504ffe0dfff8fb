"""The result of a run in the terminal."""


def show_result(folder) -> None:
    """The comparison of a run, its winner and where the report is."""
    from rich.console import Console

    from ssmlab.reports.caveats import judged
    from ssmlab.reports.run_folder import load_run
    from ssmlab.reports.tables import comparison, to_rich

    run = load_run(folder)
    console = Console(highlight=False)
    table = comparison(run.records, run.titles)
    room = max(2, (console.width - 26) // 24)  # models side by side
    for first in range(0, len(table.columns), room):
        console.print(to_rich(table, slice(first, first + room)))
    console.print(judged(run).sentence, markup=False, style="bold")
    console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)
