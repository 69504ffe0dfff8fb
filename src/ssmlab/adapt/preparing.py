"""transformers' state space models, made to call their layers, so that adapters on them are seen.

Their mixers multiply by `dt_proj.weight` themselves, and in training hand a whole block's weights to one fused function
where it is installed: adapters on dt_proj, x_proj and out_proj learn nothing there. PEFT therefore refuses out_proj and
conv1d for these models, and accepts x_proj and dt_proj.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import ModelError
from ssmlab.ops import causal_conv1d, selective_scan, ssd

_MARK = "calls_its_layers"


def prepare(model: Any) -> Any:
    """Swap the forward of a transformers model's mixers for one that calls every layer, in place.

    Mamba, FalconMamba and Mamba2 are known; the numbers and the cache stay theirs, the scans are ours. PEFT's refusal
    of `out_proj` and `conv1d` is lifted for this model.

    Args:
        model: such a model, with or without adapters.
    Returns:
        The model.
    Raises:
        ModelError: it has no mixer of these kinds.
    """
    found = []
    for module in model.modules():  # by the name of its class, or of that class's base where a tensor has an update
        names = [kind.__name__ for kind in type(module).__mro__ if kind.__name__ in _FORWARDS]
        found += [(module, _FORWARDS[names[0]])] if names else []
    if not found:
        known = ", ".join(_FORWARDS)
        raise ModelError(f"adapt.prepare: {type(model).__name__} has no {known}; models of ssmlab need no preparation")
    for mixer, forward in found:
        mixer.forward = MethodType(forward, mixer)
    for module in model.modules():  # PEFT asks the model that it is given, which may be the one inside
        if hasattr(module, "config"):
            setattr(module, _MARK, True)
    from peft.tuners import tuners_utils

    refuse = getattr(tuners_utils, "_check_lora_target_modules_mamba", None)
    if refuse is None or getattr(refuse, _MARK, False):  # nothing to lift, or lifted already
        return model

    def only_others(config, model, target_name):
        if not getattr(model, _MARK, False):
            refuse(config, model, target_name)

    setattr(only_others, _MARK, True)
    tuners_utils._check_lora_target_modules_mamba = only_others
    return model


def cache_in(args: tuple, kwargs: dict) -> Any:
    """The cache among a mixer's arguments, found by its type: transformers renames and moves the argument."""
    from transformers import Cache

    return next((value for value in (*args, *kwargs.values()) if isinstance(value, Cache)), None)


def _mixer(mix: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`mix` (mixer, hidden states, cache, mask, seq_idx) with the arguments of a mixer's forward."""

    def forward(self, hidden_states, *args, attention_mask=None, seq_idx=None, **kwargs):
        if attention_mask is None:  # given by its place, after the cache
            attention_mask = next((value for value in args if isinstance(value, Tensor)), None)
        return mix(self, hidden_states, cache_in(args, kwargs), attention_mask, seq_idx)

    return forward


@_mixer
def _mamba(self: Any, hidden_states: Tensor, cache: Any, mask: Tensor | None, seq_idx: Tensor | None) -> Tensor:
    """Of Mamba and FalconMamba: (b, l, hidden) -> (b, l, hidden)."""
    x, z = self.in_proj(_masked(hidden_states, mask)).mT.chunk(2, dim=1)
    x = _masked(_convolved(self, x, cache, seq_idx).mT, mask)
    dt, B, C = self.x_proj(x).split([self.time_step_rank, self.ssm_state_size, self.ssm_state_size], dim=-1)
    if hasattr(self, "dt_layernorm"):
        dt, B, C = self.dt_layernorm(dt), self.b_layernorm(B), self.c_layernorm(C)
    y, last = selective_scan(
        x.mT,
        self.dt_proj(dt).mT,
        -torch.exp(self.A_log.float()),
        B.mT,
        C.mT,
        self.D.float(),
        z=z,
        dt_softplus=True,
        initial_state=_state(self, cache),
        seq_idx=seq_idx,
    )
    if cache is not None:
        cache.update_recurrent_state(last, self.layer_idx)
    return self.out_proj(y.mT.to(hidden_states.dtype))


@_mixer
def _mamba2(self: Any, hidden_states: Tensor, cache: Any, mask: Tensor | None, seq_idx: Tensor | None) -> Tensor:
    """Of Mamba2: (b, l, hidden) -> (b, l, hidden)."""
    width = self.n_groups * self.ssm_state_size
    projected = self.in_proj(_masked(hidden_states, mask))
    z, xBC, dt = projected.split([self.intermediate_size, self.intermediate_size + 2 * width, self.num_heads], dim=-1)
    xBC = _masked(_convolved(self, xBC.mT, cache, seq_idx).mT, mask)
    x, B, C = xBC.split([self.intermediate_size, width, width], dim=-1)
    limits = tuple(self.time_step_limit)
    clamped = limits != (0.0, float("inf"))
    if clamped:
        dt = F.softplus(dt.float() + self.dt_bias.float()).clamp(*limits)
    y, last = ssd(
        x.unflatten(-1, (self.num_heads, self.head_dim)),
        dt,
        -torch.exp(self.A_log.float()),
        B.unflatten(-1, (self.n_groups, -1)),
        C.unflatten(-1, (self.n_groups, -1)),
        self.D,
        dt_bias=None if clamped else self.dt_bias,
        dt_softplus=not clamped,
        chunk_size=self.chunk_size,
        initial_state=_state(self, cache),
        seq_idx=seq_idx,
    )
    if cache is not None:
        cache.update_recurrent_state(last, self.layer_idx)
    return self.out_proj(self.norm(y.flatten(2), z).to(hidden_states.dtype))


_FORWARDS = {"MambaMixer": _mamba, "FalconMambaMixer": _mamba, "Mamba2Mixer": _mamba2}


def _masked(u: Tensor, mask: Tensor | None) -> Tensor:
    """u (b, l, d), zero where the mask (b, l) is; a mask of another length is of tokens that were read before."""
    if mask is None or mask.shape[1] != u.shape[1]:
        return u
    return u * mask[..., None].to(u.dtype)


def _convolved(mixer: Any, x: Tensor, cache: Any, seq_idx: Tensor | None) -> Tensor:
    """x (b, d, l) through the mixer's convolution, after what the cache remembers."""
    length, conv = x.shape[2], mixer.conv1d
    if cache is not None:
        x = cache.update_conv_state(x, mixer.layer_idx, conv_kernel_size=mixer.conv_kernel_size)
    if isinstance(conv, nn.Conv1d):
        y, _ = causal_conv1d(x, conv.weight.squeeze(1), conv.bias, activation="silu", seq_idx=seq_idx)
    else:  # it is wrapped
        y = mixer.act(conv(x)[..., : x.shape[2]])
    return y[..., -length:]


def _state(mixer: Any, cache: Any) -> Tensor | None:
    found = None if cache is None else cache.get_recurrent_state(mixer.layer_idx, state_idx=0)
    return None if found is None else found.float()
