"""Progress in a terminal and in a file."""

import io

import pytest
from rich.console import Console

from ssmlab.core import display
from ssmlab.core.display import Display


@pytest.fixture
def clock(monkeypatch):
    """Time that moves when it is told to."""
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])

    def sleep(seconds):
        now[0] += seconds

    return sleep


def shown(terminal):
    out = Display()
    out.console = Console(file=io.StringIO(), force_terminal=terminal, width=120, highlight=False, color_system=None)
    return out, out.console.file.getvalue


def test_a_file_gets_a_line_now_and_then(clock):
    out, text = shown(terminal=False)
    out.start("model", 100, done=50, per_step=8)
    clock(10)
    out.update(60, "loss 1.0")
    assert text() == ""
    clock(25)
    out.update(75, "loss 0.5")
    assert text() == "model: 75%, 35 s left, 6 images/s, loss 0.5\n"
    clock(35)
    out.update(100)
    out.stop()
    out.stop()
    assert text().splitlines()[1:] == [
        "model: 100%, 0.0 s left, 6 images/s, loss 0.5",
        "model: 70 s, 6 images/s, loss 0.5",
    ]


def test_short_work_leaves_no_line_and_unfinished_work_says_so(clock):
    out, text = shown(terminal=False)
    out.start("reading", 10)
    clock(1)
    out.update(10)
    out.stop()
    assert text() == ""
    out.start("training", 10)
    clock(5)
    out.update(4)
    out.start("next", 1)
    assert text() == "training: 5.0 s (stopped at 40%), 1 images/s\n"


def test_a_slow_rate_is_not_zero(clock):
    out, text = shown(terminal=False)
    out.start("explaining", 1)
    clock(8)
    out.update(1)
    out.stop()
    assert "0.1 images/s" in text()


def test_a_terminal_gets_a_bar_with_rate_and_note():
    out, text = shown(terminal=True)
    out.start("model", 10, per_step=32)
    out.update(5, "loss 0.250, validation 90.0%")
    out._bar.refresh()
    out.stop()
    bar = text()
    assert "model" in bar and "50%" in bar and "images/s" in bar and "validation 90.0%" in bar


def test_markup_in_messages_is_text():
    out, text = shown(terminal=False)
    out.say("[data] and [bold]x[/bold]")
    assert text() == "[data] and [bold]x[/bold]\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_numbers_after_the_last_step_are_in_the_last_line(clock, terminal):
    out, text = shown(terminal)
    out.start("model", 10)
    clock(40)
    out.update(10, "loss 0.5, validation 10.0%")
    out.note("loss 0.5, validation 90.0%")
    out.stop()
    assert text().rstrip().endswith("loss 0.5, validation 90.0%")


def test_a_notebook_without_widgets_gets_lines(clock, monkeypatch):
    monkeypatch.setattr(display, "find_spec", lambda name: None)
    out = Display()
    out.console = Console(file=io.StringIO(), force_jupyter=True, width=120, color_system=None)
    monkeypatch.setattr(out.console, "print", lambda text, **_: said.append(text))
    said = []
    out.start("model", 100)
    clock(40)
    out.update(50)
    out.stop()
    assert said == ["model: 50%, 40 s left, 1 images/s", "model: 40 s (stopped at 50%), 1 images/s"]
    monkeypatch.setattr(display, "find_spec", lambda name: True)
    monkeypatch.setattr(out, "_make_bar", lambda: (_ for _ in ()).throw(RuntimeError("a bar")))
    with pytest.raises(RuntimeError, match="a bar"):
        out.start("model", 100)
