"""`ssmlab report` and `python docs/screenshot.py`."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssmlab.cli.report import find_run, report
from ssmlab.core.errors import UserError

SCREENSHOT = Path(__file__).parents[2] / "docs" / "screenshot.py"


def command():
    import typer

    app = typer.Typer()
    app.command()(report)
    return app


def test_report_prints_the_table_the_winner_and_the_path(digits):
    (digits / "report.html").unlink()
    done = CliRunner().invoke(command(), [str(digits)], env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    assert (digits / "report.html").is_file()
    joined = " ".join(done.output.split())
    for said in ("Accuracy 95.3 % [92.6, 97.0] ● 98.3 %", "ResNet-18 + Mamba wins: ", "report.html"):
        assert said in joined


def test_what_is_asked_for_is_written_next_to_the_page(digits):
    done = CliRunner().invoke(command(), [str(digits), "--csv", "--card"], env={"COLUMNS": "100"})
    assert done.exit_code == 0 and done.output.count("wrote ") == 3
    assert (digits / "export" / "numbers.csv").is_file() and (digits / "export" / "model-card.md").is_file()


def test_a_run_is_found_by_its_name(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits, tmp_path / "runs" / "digits")
    assert find_run("digits") == Path("runs/digits")
    assert find_run("runs/digits") == Path("runs/digits")
    with pytest.raises(UserError, match="did you mean digits"):
        find_run("digts")
    with pytest.raises(UserError, match="give the folder of the run"):
        find_run("runs/digits/report.html")
    with pytest.raises(UserError, match="runs here: digits"):
        find_run("something")


def take(*arguments, path):
    environment = {**os.environ, "PATH": str(path)}
    return subprocess.run(
        [sys.executable, str(SCREENSHOT), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )


def test_screenshots_have_their_sizes(digits, tmp_path):
    """With a stand-in for the browser, which is not there on every machine."""
    from PIL import Image

    browser = tmp_path / "bin" / "chromium"
    browser.parent.mkdir()
    browser.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "from PIL import Image\n"
        "options = dict(a.split('=', 1) for a in sys.argv[1:] if '=' in a)\n"
        "size = tuple(map(int, options['--window-size'].split(',')))\n"
        "dark = options['--blink-settings'] == 'preferredColorScheme=0'\n"
        "Image.effect_noise(size, 90 if dark else 0).convert('RGB').save(options['--screenshot'])\n"
    )
    browser.chmod(browser.stat().st_mode | stat.S_IEXEC)
    done = take(digits, "--out", tmp_path / "out", path=browser.parent)
    assert done.returncode == 0, done.stderr
    sizes = {}
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
    assert sizes == {
        "report-light.png": (1280, 800),
        "report-dark.png": (1280, 800),
        "report-phone.png": (390, 844),
    }
    assert "report-dark.png" in done.stdout


def test_without_browser_or_page_one_line_says_so(digits, tmp_path):
    done = take(digits, "--out", tmp_path, path=tmp_path)
    assert done.returncode == 2
    assert "no Chromium on PATH" in done.stderr
    assert done.stderr.count("\n") == 1
    done = take(tmp_path, "--out", tmp_path, path=tmp_path)
    assert done.returncode == 2
    assert "ssmlab report" in done.stderr
    assert done.stderr.count("\n") == 1
