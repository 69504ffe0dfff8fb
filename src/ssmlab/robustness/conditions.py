"""What images are tested under: a set of transformations with their severities, and attacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ssmlab.core.errors import UserError
from ssmlab.robustness import corruptions
from ssmlab.robustness.corruptions import ALEXNET_CLEAN, CORRUPTIONS
from ssmlab.robustness.scores import ORIGINAL
from ssmlab.robustness.transformations import SEVERITIES, TRANSFORMATIONS, transform

TWENTY, IMAGENET_C = "twenty", "imagenet-c"
SETS = (TWENTY, IMAGENET_C)
DEFAULT_SEVERITIES = MappingProxyType({TWENTY: (3,), IMAGENET_C: SEVERITIES})


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One way in which every image is changed.

    Args:
        name: of a transformation, a corruption or an attack; "original" for none.
        severity: 0 of the original and of attacks.
        set: where the name is from.
    """

    name: str
    title: str
    severity: int = 0
    set: str = TWENTY

    @property
    def key(self) -> str:
        return f"{self.set}-{self.name}-{self.severity}" if self.severity else self.name

    def change(self, images: Tensor, seed: int, index: Tensor) -> Tensor:
        """Images (b, c, h, w) uint8 changed; an attack changes nothing here, since it needs the model."""
        if not self.severity:
            return images
        change = transform if self.set == TWENTY else corruptions.corrupt
        return change(images, self.name, severity=self.severity, seed=seed, index=index)


def conditions(set_: str, severities: tuple[int, ...]) -> list[Condition]:
    """The original and every transformation of a set with every severity.

    Args:
        set_: "twenty" or "imagenet-c".
        severities: of 1 to 5; none takes the set's own, 3 for the twenty and all five for ImageNet-C.
    Raises:
        UserError: there is no such set or severity.
    """
    if set_ not in SETS:
        raise UserError(f"the sets of transformations are {', '.join(SETS)}, got {set_!r}")
    severities = tuple(dict.fromkeys(severities)) or DEFAULT_SEVERITIES[set_]
    wrong = [s for s in severities if s not in SEVERITIES]
    if wrong:
        raise UserError(f"severities are 1 to 5, got {wrong[0]}")
    rows = TRANSFORMATIONS if set_ == TWENTY else CORRUPTIONS
    changed = [
        Condition(name=row.name, title=row.title, severity=severity, set=set_)
        for row in rows.values()
        for severity in sorted(severities)
    ]
    return [Condition(name=ORIGINAL, title="Original"), *changed]


def reference(among: Sequence[Any]) -> dict[str, float]:
    """AlexNet's errors, where every corruption of ImageNet-C is there with all its severities; else none."""
    there = {(condition.name, condition.severity) for condition in among if isinstance(condition, Condition)}
    if not there >= {(name, severity) for name in CORRUPTIONS for severity in SEVERITIES}:
        return {}
    return {ORIGINAL: ALEXNET_CLEAN} | {name: row.alexnet for name, row in CORRUPTIONS.items()}
