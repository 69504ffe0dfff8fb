"""A conversation about images as every reader hands it over."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARK = "<image>"
HUMAN, MODEL = "human", "model"


@dataclass(frozen=True)
class Turn:
    """One message.

    role: "human" or "model".
    text: with "<image>" where an image stands; an answer has none.
    """

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """One record of a data set.

    index: its place in the file, from 0.
    id: as the file has it, else the index.
    images: in the order of the marks in the turns; as many as there are marks.
    turns: human and model in turn; the last one is the model's.
    source: the record as it was read, for scores.
    """

    index: int
    id: str
    images: tuple[Path, ...]
    turns: tuple[Turn, ...]
    source: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def question(self) -> str:
        """The first human turn without marks."""
        return without_marks(self.turns[0].text)

    @property
    def answer(self) -> str:
        """The last answer."""
        return self.turns[-1].text


def without_marks(text: str) -> str:
    """A text without the marks of images, and without the line breaks that set them apart."""
    for mark in (f"{MARK}\n", f"\n{MARK}", MARK):
        text = text.replace(mark, "")
    return text.strip()
