"""Images changed so that a model errs: its own gradient shows the way.

FGSM: Goodfellow, Shlens & Szegedy 2015 (arXiv:1412.6572), section 4. PGD: Madry et al. 2018 (arXiv:1706.06083),
section 2.1, from a random start.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import UserError
from ssmlab.robustness.philox import Draws
from ssmlab.tasks.classify.task import Classify

ATTACKS = ("fgsm", "pgd")
NUMBER = 1000  # of the generator's streams; transformations and corruptions have smaller ones
STEP = 2.5  # of epsilon over the number of steps, as in Madry et al.'s published code


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack within a ball of the maximum norm.

    Args:
        name: "fgsm" or "pgd".
        epsilon: the most that a value may change, as a fraction of the range of values.
        steps: of PGD.
    Raises:
        UserError: another name, or a number out of range.
    """

    name: str
    epsilon: float
    steps: int = 10

    def __post_init__(self):
        if self.name not in ATTACKS:
            raise UserError(f"the attacks are {', '.join(ATTACKS)}, got {self.name!r}")
        if not 0 < self.epsilon <= 1:
            raise UserError(f"epsilon is a fraction of the range, such as 4/255, and at most 1; got {self.epsilon:g}")
        if self.steps < 1:
            raise UserError(f"an attack needs at least one step, got {self.steps}")

    @property
    def key(self) -> str:
        return f"{self.name}-{self.epsilon:.6f}" + (f"-{self.steps}" if self.name == "pgd" else "")

    @property
    def title(self) -> str:
        size = f"{255 * self.epsilon:.3g}/255"
        return f"FGSM, {size}" if self.name == "fgsm" else f"PGD, {size}, {self.steps} steps"

    def change(self, network: nn.Module, task: Classify, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """FGSM: v + e sign(g). PGD: v + e (2 u - 1), then so many steps of 2.5 e / steps along sign(g), each brought
        back into v - e..v + e. Values stay in 0..255, and are not rounded.

        g is the gradient of the cross-entropy with the true label, u uniform, (c, h, w) (part 0).

        Args:
            images: (b, c, h, w) uint8. labels: (b,), positions in the logits.
        Returns:
            (b, c, h, w) float32 with values 0 to 255.
        """
        x, e = images.float(), 255 * self.epsilon
        if self.name == "fgsm":
            return (x + e * _sign(network, task, x, labels)).clamp_(0, 255)
        start = draws.uniform(*x.shape[1:], device=x.device)
        low, high = (x - e).clamp_(min=0), (x + e).clamp_(max=255)
        found = torch.clamp(x + e * (2 * start - 1), low, high)
        for _ in range(self.steps):
            found = torch.clamp(found + (STEP * e / self.steps) * _sign(network, task, found, labels), low, high)
        return found


def _sign(network: nn.Module, task: Classify, x: Tensor, labels: Tensor) -> Tensor:
    """The sign of the loss's gradient; every image has its own, since the sum of the losses is what is derived."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(network(task.prepare(x)).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    return gradient.sign()
