"""Conversations about images read as a run reads them: kinds, turns, lengths, images, and what cannot be used."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from ssmlab.data.check import conversions
from ssmlab.data.contents import count
from ssmlab.data.conversations.reader import find_conversations, listed
from ssmlab.data.images.decode import Progress


@dataclass(frozen=True, kw_only=True)
class ConversationReport:
    """What `check_conversations` found.

    Attributes:
        images: different images that could be read. records: that can be used.
        turns: how many questions a record has -> records. words: side -> (fewest, median, most) words of a message.
        sizes: "width" and "height" -> (smallest, median, largest) in pixels.
        problems: every record that cannot be used, by its place in the file. notes: to be known.
    """

    kind: str
    path: str
    folder: str
    records: int
    images: int
    turns: dict[int, int]
    words: dict[str, tuple[int, float, int]]
    sizes: dict[str, tuple[int, float, int]]
    problems: list[str]
    notes: list[str]

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def format(self) -> str:
        return self.kind

    @property
    def counts(self) -> dict[str, int]:
        """ "all" -> records, which are not divided into parts."""
        return {"all": self.records}

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        turns = {str(n): records for n, records in self.turns.items()}
        return {"ok": self.ok, "task": "vision_language", **vars(self), "turns": turns}


def check_conversations(
    path: str | Path, images: str | Path | None = None, *, progress: Progress | None = None
) -> ConversationReport:
    """Read all records and decode all images of a path.

    Raises:
        DataError: there are no conversations, or a file is damaged as a whole.
    """
    found = find_conversations(path, images, progress=progress)
    notes = conversions([SimpleNamespace(id=name, mode=mode, frames=frames) for name, _, mode, frames in found.looked])
    same = Counter((record.images, record.turns) for record in found.conversations)
    ids = Counter(record.id for record in found.conversations)
    for n, noun, what in (
        (sum(same.values()) - len(same), "record", "more than once: the same images and texts"),
        (sum(not record.images for record in found.conversations), "record", "without an image"),
        (sum(len(record.images) > 1 for record in found.conversations), "record", "with several images"),
        (sum(k > 1 for k in ids.values()), "id", "of more than one record"),
    ):
        if n:
            notes.append(f"{count(n, noun)} {what}")
    messages: dict[str, list[int]] = {"question": [], "answer": []}
    for record in found.conversations:
        for n, turn in enumerate(record.turns):
            messages["answer" if n % 2 else "question"].append(len(turn.text.replace("<image>", " ").split()))
    axes = {axis: sorted(size[i] for _, size, _, _ in found.looked) for i, axis in enumerate(("width", "height"))}
    return ConversationReport(
        kind=found.kind,
        path=str(found.path),
        folder=str(found.images),
        records=len(found.conversations),
        images=len(found.looked),
        turns=dict(sorted(Counter(len(record.turns) // 2 for record in found.conversations).items())),
        words={side: (min(n), float(median(n)), max(n)) for side, n in messages.items() if n},
        sizes={axis: (n[0], float(median(n)), n[-1]) for axis, n in axes.items() if n},
        problems=listed(found),
        notes=notes,
    )
