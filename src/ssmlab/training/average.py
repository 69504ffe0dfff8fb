"""A running average of the weights, which is what is evaluated and kept, while the weights themselves are trained."""

from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from ssmlab.core.files import write_tensors
from ssmlab.training.resume import contiguous

FILE = "average.safetensors"  # in a checkpoint


class Average(TrainerCallback):
    """An exponential moving average of all parameters and buffers, by timm's ModelEmaV3.

    It begins with the weights after the first step; after step t it is decay_t * average + (1 - decay_t) * weights.
    With `warmup`, decay_t is 1 - t^(-2/3) until it reaches `decay`, so that a short training does not end near the
    weights that it began with.

    Args:
        model: on the device where it is trained.

    Source: Polyak & Juditsky 1992; the warm-up is Katherine Crowson's (k-diffusion).
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool):
        from timm.utils import ModelEmaV3

        self.average = ModelEmaV3(model, decay=decay, use_warmup=warmup)
        self.model = model

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.average.update(self.model, step=state.global_step + 1)

    @contextmanager
    def applied(self):
        """The model has the averaged weights, and its own again afterwards, to the bit."""
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.apply()
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def apply(self) -> None:
        """Give the model the averaged weights for good."""
        self.model.load_state_dict(self.average.module.state_dict())

    def save(self, folder: Path) -> None:
        write_tensors(folder / FILE, contiguous(self.average.module.state_dict()))

    def load(self, folder: Path) -> None:
        self.average.module.load_state_dict(load_file(folder / FILE))
