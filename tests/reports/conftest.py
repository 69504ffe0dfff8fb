"""Run folders for the tests of reports: made once, read by many; a test that changes one makes its own."""

from pathlib import Path

import pytest
from fake_run import TISSUE, Fake, make_run

from ssmlab.reports.html import write_report
from ssmlab.tasks.table import report_of

HOSTILE = ("<script>alert(1)</script>", 'b & "c" -> d', "$x$ und 日本")


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "digits")
    write_report(folder, report_of)
    return folder


@pytest.fixture(scope="session")
def tissue(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "tissue", TISSUE)
    write_report(folder, report_of)
    return folder


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Path:
    """Everything that comes from outside tries to be markup; two seeds."""
    evil = "<script>alert(2)</script>"
    fake = Fake(
        name=evil,
        description='"><img src=x onerror=alert(3)>',
        classes=HOSTILE,
        models=(
            ("<b>a</b>", evil, 0.9, 16, 1e6, 1e9, 1e6, 100),
            ("b", "B & <i>", 0.8, None, 1e6, 1e9, 0, 90),
        ),
        seeds=(3, 4),
        extra={"machine": evil, "command": "ssmlab run '<script>'", "versions": {evil: evil}},
        folders=("a", "b"),
    )
    folder = make_run(tmp_path_factory.mktemp("runs") / "hostile", fake)
    (folder / "recipe.toml").write_text(f"name = '{evil}'\n")
    write_report(folder, report_of)
    return folder
