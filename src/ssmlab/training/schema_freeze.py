"""The table of a recipe that says how parameters are frozen by their gradients. Nothing here imports torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class FreezeByGradient(BaseModel):
    """Gradients are watched for some steps, then what learns least is frozen, and training goes on without it.

    The measure is the relative gradient norm ||g|| / ||p|| of a layer, its parameters taken together, over the watched
    steps; it is compared with `threshold` times that of the median layer. "front" freezes layers from the input on
    that stay below it together, at most the share `depth` of all layers: then the backward pass ends early, which
    saves most of the time. "anywhere" freezes whichever layers stay below it, the least first, as long as they hold at
    most `share` of the trained values.
    """

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True)

    steps: int = Field(0, ge=0)  # how many steps are watched; 0 = nothing is frozen
    start: int = Field(0, ge=0)  # steps before that are not watched
    where: Literal["front", "anywhere"] = "front"
    threshold: float = Field(3.0, gt=0)
    depth: float = Field(0.25, gt=0, lt=1)
    share: float = Field(0.5, gt=0, lt=1)
    unit: Literal["layer", "parameter"] = "layer"  # what is frozen as one
