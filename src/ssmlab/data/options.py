"""Options of looking at a data set."""

import codecs
from dataclasses import dataclass
from typing import Annotated

from ssmlab.core.errors import UserError
from ssmlab.core.options import Option, Options

TASKS = ("classify", "segment", "classify_sequence", "language", "translate", "vision_language")


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """How a data set is read and divided."""

    group: str | None = None
    """Column whose images stay on one side, such as the patient, or a pattern of file names: "(patient[0-9]+)_"."""
    labels: str = "fine"
    """Column of the classes in a table, or several; of CIFAR-100 fine or coarse."""
    val_fraction: float = 0.1
    """Share of train for validation where the data have none."""
    seed: int = 0
    """Seed of that choice."""
    task: str | None = None
    """classify, segment, classify_sequence, language, translate or vision_language; found from the files if not
    given."""
    source: str = ""
    """Of sentence pairs the source language, such as en."""
    target: str = ""
    """Of sentence pairs the target language, such as fr."""
    target_path: str = ""
    """Of sentence pairs the target file, where PATH is the source's."""
    images: str | None = None
    """Of conversations about images the images' folder."""
    encoding: str = "utf-8"
    """Of texts that are not UTF-8, such as latin-1."""
    masks: bool = False
    """The same as --task segment."""
    as_json: Annotated[bool, Option(flag="--json")] = False
    """Print everything as JSON."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task and self.task not in TASKS:
            raise UserError(f"--task {self.task}: no such task; there are {', '.join(TASKS)}")
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise UserError(
                f"--encoding {self.encoding}: Python knows no such encoding; such as utf-8, latin-1, cp1252"
            ) from None

    @property
    def wanted(self) -> str:
        """The task that is meant, "" where the files say it."""
        if self.masks:
            return "segment"
        if self.task or self.images:
            return self.task or "vision_language"
        return "translate" if self.source or self.target or self.target_path else ""
