"""Other people's code with the inputs of our operators: mambapy's parallel scan and transformers' plain PyTorch.

Everything around a scan (softplus, discretisation, skip, gate) is counted, as it is in ours.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.profiling.bench.shapes import Shape

# Tokens whose pairs transformers' Mamba-2 multiplies out unless its configuration says otherwise.
MAMBA2_CHUNK = 256


class Missing(Exception):
    """An opponent is not here; says why."""


def mambapy_scan(shape: Shape) -> Callable[..., Tensor]:
    """A selective scan through mambapy's `pscan`, arranged as its `MambaBlock` does.

    Raises:
        Missing: mambapy is not installed.
    """
    try:
        from mambapy.pscan import pscan
    except ImportError:
        raise Missing("not installed; pip install 'ssmlab[bench]'") from None

    def scan(x, dt, A, B, C, D, z, dt_bias):
        delta, u = F.softplus(dt + dt_bias[:, None]).mT, x.mT
        decay = torch.exp(delta[..., None] * A)
        states = pscan(decay, (delta * u).float()[..., None] * B.mT[:, :, None])
        y = (states @ C.mT.float()[..., None]).squeeze(-1)
        return ((y + D * u).mT * F.silu(z)).to(x.dtype)

    return scan


def transformers_scan(shape: Shape) -> Callable[..., Tensor]:
    """What transformers' Mamba computes without `mamba_ssm`: its loop over tokens; its own update for one token.

    Raises:
        Missing: this version of transformers has no such function.
    """
    if shape.l == 1 and not shape.backward:  # the update writes into its state, so that autograd cannot follow
        update = _fallback("mamba", "mamba_selective_state_update")

        def step(x, dt, A, B, C, D, z, dt_bias):
            tokens = (t[..., 0] for t in (x, dt, B, C, z))
            return _step(update, shape, A, D, dt_bias, *tokens)[..., None].to(x.dtype)

        return step
    scan = _fallback("mamba", "mamba_selective_scan")

    def whole(x, dt, A, B, C, D, z, dt_bias):
        return scan(x, dt, A, B, C, D=D, z=z, delta_bias=dt_bias, delta_softplus=True).to(x.dtype)

    return whole


def _step(update, shape: Shape, A, D, dt_bias, x, dt, B, C, z) -> Tensor:
    state = A.new_zeros(shape.b, *A.shape)
    return update(state, x, dt, A, B, C, D=D, dt_bias=dt_bias, dt_softplus=True, z=z)


def transformers_conv(shape: Shape) -> Callable[..., Tensor]:
    """What transformers' Mamba computes without `causal_conv1d`: torch's convolution, then silu.

    Raises:
        Missing: this version of transformers has no such function.
    """
    convolve = _fallback("mamba", "causal_conv1d_fn")

    def whole(x, weight, bias):
        return convolve(x, weight, bias, activation="silu")

    return whole


def transformers_ssd(shape: Shape) -> Callable[..., Tensor]:
    """What transformers' Mamba-2 computes without `mamba_ssm`: chunks of 256 tokens; its own update for one token.

    Raises:
        Missing: this version of transformers has no such function.
    """
    if shape.l == 1 and not shape.backward:
        update = _fallback("mamba2", "mamba2_selective_state_update")

        def step(x, dt, A, B, C, D, dt_bias):
            h, p, n = x.shape[2], x.shape[3], B.shape[-1]
            state = A.new_zeros(shape.b, h, p, n)
            rates, skip, bias = A[:, None, None].expand(h, p, n), D[:, None], dt_bias[:, None].expand(h, p)
            delta = dt[:, 0, :, None].expand(-1, h, p)
            y = update(state, x[:, 0], delta, rates, B[:, 0], C[:, 0], D=skip, dt_bias=bias, dt_softplus=True)
            return y[:, None].to(x.dtype)

        return step
    scan = _fallback("mamba2", "mamba2_chunk_scan")

    def whole(x, dt, A, B, C, D, dt_bias):
        return scan(x, dt, A, B, C, MAMBA2_CHUNK, D=D, dt_bias=dt_bias, dt_softplus=True).to(x.dtype)

    return whole


def _fallback(family: str, name: str) -> Callable:
    """transformers' PyTorch function, not the faster package that stands in for it where one is installed."""
    try:
        module = import_module(f"transformers.models.{family}.modeling_{family}")
        function = getattr(module, name)
    except (ImportError, AttributeError):
        raise Missing(f"transformers {package_version('transformers')} has no {name}") from None
    return getattr(function, "__wrapped__", function)


def package_version(name: str) -> str | None:
    """What is installed, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
