"""How a model is trained, whatever the task. pydantic checks it; torch is not imported."""

import math
from typing import Literal

from pydantic import Field, field_validator

from ssmlab.core.table import Table


class FreezeByGradient(Table):
    """Gradients are watched for some steps, then what learns least is frozen, and training goes on without it.

    The measure is the relative gradient norm ||g|| / ||p|| of a layer, its parameters taken together, over the watched
    steps; it is compared with `threshold` times that of the median layer.
    """

    steps: int = Field(0, ge=0)
    """How many steps are watched; 0: nothing is frozen."""
    start: int = Field(0, ge=0)
    """Steps before the watched ones."""
    where: Literal["front", "anywhere"] = "front"
    """front: layers from the input on that stay below the threshold together, so that the backward pass ends early,
    which saves most of the time; anywhere: any layers below it, the least first."""
    threshold: float = Field(3.0, gt=0)
    """Times the relative gradient norm of the median layer; what stays below it is frozen."""
    depth: float = Field(0.25, gt=0, lt=1)
    """Of front: the largest share of all layers."""
    share: float = Field(0.5, gt=0, lt=1)
    """Of anywhere: the largest share of the trained values."""
    unit: Literal["layer", "parameter"] = "layer"
    """What is frozen as one."""


class FitConfig(Table):
    """How a model is trained: everything that `fit` reads, whatever the task."""

    epochs: int = Field(10, ge=1)
    """Passes over the training part."""
    min_steps: int = Field(0, ge=0)
    """Small data get more epochs, until there are so many steps; of a stream without a length, all steps."""
    batch_size: int = Field(32, ge=1)
    """Items of a step, of all processes together."""
    accumulation: int = Field(1, ge=1)
    """In so many pieces, one after the other, a step's batch is computed: less memory, the same update."""
    sharding: Literal["none", "full"] = "none"
    """Of several processes. full: each keeps a share of weights, gradients and moments (FSDP2), for models whose
    training one device has no room for; none: each keeps all of them (DDP)."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    """sgd: with Nesterov momentum."""
    momentum: float = Field(0.99, ge=0, lt=1)
    """Of sgd; 0: plain."""
    learning_rate: float = Field(1e-3, gt=0)
    """The highest rate of the schedule."""
    weight_decay: float = Field(0.01, ge=0)
    """Of matrices and filters, but of none that the model excludes."""
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    """Of adam and adamw: the decay of the average of squared gradients."""
    schedule: Literal["cosine", "linear", "constant", "polynomial", "inverse_sqrt"] = "cosine"
    """How the learning rate falls to 0 after the warm-up; polynomial: (1 - t / steps)^0.9; inverse_sqrt: it falls as
    (t / warm-up)^-0.5 and does not reach 0."""
    warmup: float = Field(0.1, ge=0)
    """The fraction of all steps in which the rate rises from 0; from 1 on, the number of these steps."""
    clip_norm: float = Field(1.0, ge=0)
    """Largest norm of the gradient; 0: no clipping."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """auto: bf16 on a GPU that has it, else float32."""
    channels_last: Literal["auto", "yes", "no"] = "no"
    """Memory order of images; auto: on a GPU."""
    keep: Literal["last", "best"] = "last"
    """Whose weights are kept; best: of the epoch that is best on the validation part."""
    patience: int = Field(0, ge=0)
    """Training stops after so many epochs in a row that are no better than the best one before them, on the validation
    part; 0: never."""
    checkpoint_steps: int = Field(0, ge=0)
    """A checkpoint every so many steps, besides one after each epoch."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """The learning rate falls by this factor from each layer to the one before."""
    rates: dict[str, float] = Field({})
    """Learning rates of parts, by the names of modules, such as projector; what is in none has `learning_rate`."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of a running average of the weights, which is then what is kept; 0: none."""
    ema_warmup: bool = True
    """The average starts short and grows: its decay is at most 1 - step^(-2/3)."""
    freeze: list[str] = Field([])
    """Names of parameters or modules, with * and ?, or "backbone", which leaves a linear probe."""
    freeze_by_gradient: FreezeByGradient = FreezeByGradient()
    """Freeze what hardly learns."""
    watch_gradients: int = Field(0, ge=0)
    """Write the norms of all gradients every so many steps; 0: never."""

    @field_validator("freeze", mode="before")
    @classmethod
    def _one_or_several(cls, value):
        return [value] if isinstance(value, str) and value else value or []

    def length(self, items: int) -> tuple[int, int]:
        """Epochs, and all optimisation steps, for so many training items.

        Whole batches only, so that no batch of one image meets a batch norm; a part smaller than a batch is one batch.
        """
        per_epoch = max(items // self.batch_size, 1)
        epochs = max(self.epochs, math.ceil(self.min_steps / per_epoch))
        return epochs, epochs * per_epoch

    def warmup_steps(self, steps: int) -> int:
        """The steps of the warm-up, of so many in all; a training of one step has none, as it begins at a rate of 0."""
        if steps <= 1:
            return 0
        return round(self.warmup) if self.warmup >= 1 else math.ceil(self.warmup * steps)
