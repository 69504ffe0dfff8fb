"""What the processes of `processes.start` do."""

from pathlib import Path
from unittest import mock


def runs(jobs: list, output: str) -> None:
    """Run recipes one after the other: [recipe, overrides] each, in its tiny form, without pages."""
    from ssmlab.experiments.run import run_recipe
    from ssmlab.tasks.recipe import load_recipe

    with mock.patch("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html"):
        for recipe, overrides in jobs:
            run_recipe(load_recipe(recipe, overrides, smoke=True), output=Path(output))
