"""Options of translating with a finished model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from ssmlab.core.errors import UserError
from ssmlab.core.options import DEVICES, Option, Positive
from ssmlab.generation.options import BATCH, BeamOptions


@dataclass(frozen=True, kw_only=True)
class TranslateOptions(BeamOptions):
    """How texts are translated."""

    known: ClassVar[str] = ", ".join(DEVICES)

    max_tokens: Annotated[int | None, Option(least=1)] = None
    """Of a translation; 2 n + 20 of n tokens if not given."""
    source_prefix: str = ""
    """A text that comes before every line, such as the name of a language."""
    target_prefix: str = ""
    """What every translation begins with."""
    paragraphs: bool = False
    """Lines are paragraphs: split them after . ! ? and join the translations."""
    documents: bool = False
    """A blank line ends a document: each sentence is translated from the state after those before it, which only
    decoder-only models keep."""
    batch_tokens: Positive = BATCH
    """Tokens that are read at once; more need more memory."""
    device: str | None = "auto"
    """{known}."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nbest > 1 and self.paragraphs:
            raise UserError(f"nbest={self.nbest} is of single sentences; leave out paragraphs")


@dataclass(frozen=True, kw_only=True)
class TranslateFileOptions(TranslateOptions):
    """How a file is translated, and what is printed of it."""

    out: Annotated[Path | None, Option(short="-o")] = None
    """A file for the translations; standard output if not given."""
    scores: bool = False
    """Print the score and a tab before every translation."""
    force: Path | None = None
    """A file of translations, as many lines: print how likely the model finds each, and nothing else."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("paragraphs", "documents", "target_prefix"):
            if self.force and getattr(self, name):
                option = "--" + name.replace("_", "-")
                raise UserError(f"--force scores every line as it is given; leave out {option}")
