"""ImageNet-C's noise; x is (b, c, h, w) float32 with values 0 to 255, v one of them divided by 255.

See `corruptions`.
"""

from functools import lru_cache

import torch
from torch import Tensor

from ssmlab.robustness.philox import Draws


def gaussian_noise(x: Tensor, draws: Draws, sigma: float) -> Tensor:
    """v + sigma z; z standard normal, (c, h, w) (part 1)."""
    return torch.add(x, draws.normal(*x.shape[1:], part=1, device=x.device), alpha=255 * sigma)


def shot_noise(x: Tensor, draws: Draws, photons: float) -> Tensor:
    """k / photons; k from the Poisson distribution with mean photons v, v rounded to a multiple of 1/255.

    k is the smallest number with u < P(K <= k), u uniform, (c, h, w) (part 1).
    """
    ends, most = _poisson(photons)
    value = x.round().double()
    u = draws.uniform(*x.shape[1:], part=1, device=x.device)
    # One search for all values: the distribution of value i lies between i and i + 1.
    found = torch.searchsorted(ends.to(x.device), value + u, right=True)
    return (found - value.long() * most).clamp_(0, most - 1).float() * (255 / photons)


@lru_cache(maxsize=8)
def _poisson(photons: float) -> tuple[Tensor, int]:
    """i + P(K <= k) at [i most + k] for every value i of 0 to 255, and how many k there are for each."""
    most = round(photons + 10 * photons**0.5 + 10)
    k = torch.arange(most, dtype=torch.float64)
    mean = torch.arange(256, dtype=torch.float64)[:, None] * (photons / 255)
    log = torch.special.xlogy(k, mean) - mean - torch.lgamma(k + 1)
    cumulated = log.exp().cumsum(1).clamp(max=1)
    cumulated[:, -1] = 1
    return (cumulated + torch.arange(256)[:, None]).flatten(), most


def impulse_noise(x: Tensor, draws: Draws, amount: float) -> Tensor:
    """1 where u < amount / 2, 0 where amount / 2 <= u < amount, else v; u uniform, (c, h, w) (part 1)."""
    u = draws.uniform(*x.shape[1:], part=1, device=x.device)
    return torch.where(u < amount, torch.where(u < amount / 2, 255.0, 0.0), x)
