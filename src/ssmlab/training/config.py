"""How a model is trained, whatever the task. pydantic checks it; torch is not imported."""

from typing import Literal

from pydantic import Field, field_validator

from ssmlab.core.table import Table


class FreezeByGradient(Table):
    """Gradients are watched for some steps, then what learns least is frozen, and training goes on without it.

    The measure is the relative gradient norm ||g|| / ||p|| of a layer, its parameters taken together, over the watched
    steps; it is compared with `threshold` times that of the median layer. "front" freezes layers from the input on
    that stay below it together, at most the share `depth` of all layers: then the backward pass ends early, which
    saves most of the time. "anywhere" freezes whichever layers stay below it, the least first, as long as they hold at
    most `share` of the trained values.
    """

    steps: int = Field(0, ge=0)  # how many steps are watched; 0 = nothing is frozen
    start: int = Field(0, ge=0)  # steps before that are not watched
    where: Literal["front", "anywhere"] = "front"
    threshold: float = Field(3.0, gt=0)
    depth: float = Field(0.25, gt=0, lt=1)
    share: float = Field(0.5, gt=0, lt=1)
    unit: Literal["layer", "parameter"] = "layer"  # what is frozen as one


class Optimisation(Table):
    """How every model of the recipe is trained, whatever the task."""

    epochs: int = Field(10, ge=1)
    min_steps: int = Field(0, ge=0)  # small data get more epochs, until there are so many steps
    batch_size: int = Field(32, ge=1)
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.1, ge=0, lt=1)  # the fraction of all steps in which the rate rises from 0
    clip_norm: float = Field(1.0, ge=0)  # largest norm of the gradient; 0 = no clipping
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"  # auto: bf16 on a GPU that has it
    keep: Literal["last", "best"] = "last"  # best: the epoch that is best on the validation part
    checkpoint_steps: int = Field(0, ge=0)  # a checkpoint every so many steps, besides one each epoch
    freeze: list[str] = Field([])  # "backbone" (a linear probe), or names of parameters or modules, with * and ?
    freeze_by_gradient: FreezeByGradient = FreezeByGradient()  # freeze what hardly learns
    watch_gradients: int = Field(0, ge=0)  # write the norms of all gradients every so many steps; 0 = never

    @field_validator("freeze", mode="before")
    @classmethod
    def _one_or_several(cls, value):
        return [value] if isinstance(value, str) and value else value or []
