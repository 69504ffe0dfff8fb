"""The state space dual in its shortest form, for a decay a head and token: listing 1 of Dao & Gu 2024."""

import torch
from torch import Tensor

from ssmlab.compat._absent import absent
from ssmlab.core.errors import UserError
from ssmlab.ops import ssd

__all__ = ["segsum", "segsum_unstable", "ssd_minimal_discrete", "test_correctness"]
__getattr__ = absent(__name__, "", "", mamba_ssm__ops__triton__ssd_combined="mamba_chunk_scan_combined")


def segsum_unstable(x: Tensor) -> Tensor:
    """`segsum` as a difference of two sums, which cancels where they are large."""
    total = x.cumsum(-1)
    return _causal(total[..., :, None] - total[..., None, :])


def segsum(x: Tensor) -> Tensor:
    """x (..., t) -> (..., t, t): the sum of x over j + 1 .. i at (i, j), -inf above the diagonal."""
    terms = x[..., None].expand(*x.shape, x.shape[-1]).tril(-1)
    return _causal(terms.cumsum(-2))


def _causal(sums: Tensor) -> Tensor:
    above = torch.ones(sums.shape[-2:], device=sums.device, dtype=torch.bool).triu(1)
    return sums.masked_fill(above, -torch.inf)


def ssd_minimal_discrete(X, A, B, C, block_len, initial_states=None):
    """h_t = exp(A_t) h_{t-1} + X_t B_t^T, Y_t = h_t C_t: discrete already, so x dt and A dt of a block go in.

    Args:
        X: (b, l, h, p). A: (b, l, h), logarithms of decays. B, C: (b, l, h, n) or (b, l, 1, n).
        block_len: tokens of a chunk; must divide l, as in the original.
        initial_states: (b, 1, h, p, n).
    Returns:
        Y (b, l, h, p) and the state after the last step (b, h, p, n).
    """
    if X.shape[1] % block_len:
        raise UserError(f"ssd_minimal_discrete: block_len must divide the length {X.shape[1]}, got {block_len}")
    h = X.new_zeros(X.shape[0], X.shape[2], X.shape[3], B.shape[3]) if initial_states is None else initial_states[:, 0]
    outputs = []
    for x, a, b, c in zip(*(t.split(block_len, dim=1) for t in (X, A, B, C)), strict=True):
        a = a.mT  # (b, h, l)
        total = a.cumsum(-1)
        y = torch.einsum("blhn,bshn,bhls,bshp->blhp", c, b, segsum(a).exp(), x)
        outputs.append(y + torch.einsum("blhn,bhpn,bhl->blhp", c, h, total.exp()))
        added = torch.einsum("blhn,bhl,blhp->bhpn", b, (total[..., -1:] - total).exp(), x)
        h = total[..., -1].exp()[..., None, None] * h + added
    return torch.cat(outputs, dim=1), h


def test_correctness() -> None:
    """The original's self-test: the same as the operator, which takes a step size and a rate apart."""
    x, dt, B, C = torch.randn(1, 96, 4, 8), torch.rand(1, 96, 4), torch.randn(1, 96, 1, 8), torch.randn(1, 96, 1, 8)
    A = -torch.rand(4)
    y, _ = ssd_minimal_discrete(x * dt[..., None], A * dt, B, C, 32)
    torch.testing.assert_close(y, ssd(x, dt, A, B, C)[0], atol=1e-4, rtol=1e-4)
