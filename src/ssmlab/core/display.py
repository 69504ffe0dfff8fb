"""Progress in a terminal and in a notebook: bars there, a line now and then where output goes to a file."""

import time
from importlib.util import find_spec
from typing import Any

from ssmlab.core.progress import Progress, duration

LINE_SECONDS = 30.0  # between two lines of one piece of work where there is no terminal
SUMMARY_SECONDS = 2.0  # pieces that took longer leave a line


class Display(Progress):
    """Progress with rate, remaining time and the latest numbers.

    Args:
        stderr: leave standard output to the results.
    """

    def __init__(self, *, stderr: bool = False):
        from rich.console import Console

        self.console = Console(stderr=stderr, highlight=False)
        self._bar: Any = None
        self._running = False

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def start(self, title, total, done=0, unit="images", per_step=1) -> None:
        self.stop()
        self._title, self._total, self._unit, self._per_step = title, total, unit, per_step
        self._first = self._done = done
        self._begin = self._line = time.monotonic()
        self._note, self._running = "", True
        # rich draws in a notebook by ipywidgets; without them lines are written there
        if self.console.is_terminal or (self.console.is_jupyter and find_spec("ipywidgets") is not None):
            self._bar = self._make_bar()
            self._bar.start()
            self._task = self._bar.add_task(title, total=total, completed=done, rate="", note="")

    def _make_bar(self):
        from rich import progress as rich

        return rich.Progress(
            rich.TextColumn("{task.description}"),
            rich.BarColumn(bar_width=24),
            rich.TaskProgressColumn(),
            rich.TextColumn("{task.fields[rate]}"),
            rich.TimeRemainingColumn(elapsed_when_finished=True),
            rich.TextColumn("[dim]{task.fields[note]}"),
            console=self.console,
            transient=True,
        )

    def update(self, done, note="") -> None:
        self._done, self._note = done, note or self._note
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=self._rate(), note=self._note)
        elif time.monotonic() - self._line > LINE_SECONDS:
            self._line = time.monotonic()
            elapsed = self._line - self._begin
            left = elapsed / max(done - self._first, 1) * (self._total - done)
            self.say(f"{self._title}: {done / max(self._total, 1):.0%}, {duration(left)} left{self._tail()}")

    def note(self, text) -> None:
        self._note = text
        if self._bar is not None:
            self._bar.update(self._task, note=text)

    def stop(self) -> None:
        if not self._running:
            return
        self._running = False
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elapsed = time.monotonic() - self._begin
        if elapsed > SUMMARY_SECONDS:
            whole = "" if self._done >= self._total else f" (stopped at {self._done / max(self._total, 1):.0%})"
            self.say(f"{self._title}: {duration(elapsed)}{whole}{self._tail()}")

    def _rate(self) -> str:
        elapsed = time.monotonic() - self._begin
        if elapsed <= 0 or self._done <= self._first:
            return ""
        rate = (self._done - self._first) * self._per_step / elapsed
        return f"{rate:,.0f} {self._unit}/s" if rate >= 0.5 else f"{rate:.1g} {self._unit}/s"  # never 0

    def _tail(self) -> str:
        return "".join(f", {text}" for text in (self._rate(), self._note) if text)
