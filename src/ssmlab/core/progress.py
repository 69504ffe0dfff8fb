"""What a run reports to whoever started it. The library says nothing; the command line draws bars."""


class Progress:
    """The interface of progress displays; this one shows nothing."""

    def say(self, text: str) -> None:
        """One line about what comes next."""

    def start(self, title: str, total: int, done: int = 0, unit: str = "images", per_step: int = 1) -> None:
        """A piece of work of `total` steps begins, `done` of them are done; a step is `per_step` units."""

    def update(self, done: int, note: str = "") -> None:
        """`done` steps of the piece are done; the note is e.g. the latest loss."""

    def note(self, text: str) -> None:
        """The latest numbers, where they come between two updates."""

    def training(self) -> None:
        """A model of a sweep begins."""

    def evaluated(self, value: float) -> None:
        """A training has predicted the validation part; the value of its primary metric."""

    def stop(self) -> None:
        """The piece is over, finished or not."""


def duration(seconds: float) -> str:
    """ "0.4 s", "40 s", "3 min 20 s", "2 h 5 min": as exact as a person wants it."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    from ssmlab.core.formats import seconds as words

    return words(seconds)
