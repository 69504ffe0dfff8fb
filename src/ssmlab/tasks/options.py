"""Options of what is done with trained models, whatever their task is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ssmlab.core.errors import UserError
from ssmlab.core.options import Option, Options, Positive


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """How a model is measured; those of another task than the model's must keep their default."""

    part: str = "test"
    """train, val or test; all of data that the model was not trained on. What language models read there has no
    parts."""
    length: Annotated[int | None, Option(least=1)] = None
    """Of texts: tokens of a window; as in training."""
    stride: Annotated[int | None, Option(least=1)] = None
    """Of texts: tokens from one window to the next; each is counted once. The length."""
    documents: str = "file"
    """Of texts: file, or line where each line is one."""
    tokenizer: Annotated[Any, Option(kind=str)] = None
    """Of texts: a tokenizer.json, a folder, or bytes."""
    positive: str | None = None
    """Of two classes the one whose recall is the sensitivity."""
    tta: str = "none"
    """Of images: horizontal, flips or dihedral, the mean over 2, 4 or 8 views; as in the run where it says it."""
    batch_size: Annotated[int | None, Option(least=1)] = None
    """Items at once; as in the run, else 32."""
    device: str | None = "auto"
    """auto, cuda, mps or cpu."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (
            ("part", ("train", "val", "test", "all")),
            ("documents", ("file", "line")),
            ("tta", ("none", "horizontal", "flips", "dihedral")),
        ):
            if getattr(self, name) not in known:
                *some, last = known
                raise UserError(f"--{name} must be {', '.join(some)} or {last}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(Options):
    """How files are classified, and what is shown of it."""

    top_k: Positive = 1
    """How many classes to print for each."""
    csv: Path | None = None
    """Write a table with the probability of every class."""
    lines: bool = False
    """Every line of a text is one to classify."""
    calibrated: bool = False
    """Probabilities at the temperature that the model's validation part said."""
    threshold: bool = False
    """Of two classes, name the one that the threshold of the validation part says; probabilities are calibrated."""
    device: str = "auto"
    """auto, cuda, mps or cpu."""
    batch_size: Positive = 32
