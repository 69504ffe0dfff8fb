"""When every iteration was done, in seconds of optimisation: validation and saving are left out."""

import json
import time
from pathlib import Path

from ssmlab.core.files import write_atomically
from ssmlab.core.progress import Progress

SECONDS = "seconds.json"


class Timeline(Progress):
    """Stands between the trainer and a progress display, and notes the time of every iteration.

    Between two stretches of iterations, which the trainer calls epochs, it is made to `begin` again; what happened
    since the last iteration then does not count. Given to `fit` as `kept` it goes on with the iterations of the
    checkpoint.

    Args:
        shown: the display.
    """

    def __init__(self, shown: Progress):
        self.shown = shown
        self.seconds: dict[int, float] = {0: 0.0}
        self._since = time.perf_counter()

    def begin(self) -> None:
        """A stretch begins: from now on time counts."""
        self._since = time.perf_counter()

    def at(self, step: int) -> float:
        """Seconds until `step` iterations were done."""
        return self.seconds[max(done for done in self.seconds if done <= step)]

    def save(self, folder: Path) -> None:
        """Write the seconds into a folder, a model's or a checkpoint's."""
        write_atomically(
            folder / SECONDS, json.dumps({str(step): round(value, 4) for step, value in self.seconds.items()})
        )

    def load(self, folder: Path) -> None:
        """Go on with those of a checkpoint; of an older version, as far as they are known, of the model's folder."""
        places = (place / SECONDS for place in (folder, folder.parent.parent))
        self.seconds = next((read_seconds(file) for file in places if file.is_file()), self.seconds)

    def say(self, text: str) -> None:
        self.shown.say(text)

    def start(self, title: str, total: int, done: int = 0, unit: str = "patches", per_step: int = 1) -> None:
        self.seconds = {step: value for step, value in self.seconds.items() if step < done} | {done: self.at(done)}
        self.shown.start(title, total, done, "patches", per_step)

    def update(self, done: int, note: str = "") -> None:
        now = time.perf_counter()
        self.seconds[done] = self.at(done - 1) + now - self._since
        self._since = now
        self.shown.update(done, note)

    def note(self, text: str) -> None:
        self.shown.note(text)

    def evaluated(self, value: float) -> None:
        self.shown.evaluated(value)

    def stop(self) -> None:
        self.shown.stop()


def read_seconds(file: Path) -> dict[int, float]:
    """Iteration -> seconds, as `Timeline.save` wrote them."""
    return {int(step): value for step, value in json.loads(file.read_text(encoding="utf-8")).items()}
