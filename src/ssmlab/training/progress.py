"""What a run tells whoever started it. The library says nothing; the command line draws bars."""


class Progress:
    """Silence, and the interface of everything louder."""

    def say(self, text: str) -> None:
        """One line about what comes next."""

    def start(self, title: str, total: int, done: int = 0, unit: str = "images", per_step: int = 1) -> None:
        """A piece of work of `total` steps begins, `done` of them are behind; a step is `per_step` units."""

    def update(self, done: int, note: str = "") -> None:
        """`done` steps of the piece are behind; the note is e.g. the latest loss."""

    def stop(self) -> None:
        """The piece is over, finished or not."""
