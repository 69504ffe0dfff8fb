"""Affix tuning: learned tokens before a block's input, whose outputs are dropped.

Source: Yoshimura et al. 2024 (MambaPEFT, arXiv:2411.03855), section 3.2. Unlike prefix tokens of attention these are
inside every block. A block that reads both ways gets them at both ends, one over maps gets rows of them above the map.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from ssmlab.adapt.parts import scans
from ssmlab.adapt.preparing import cache_in
from ssmlab.core.errors import ModelError


def build(model: Any, spec: Any, kind: str) -> list[str]:
    """Put `spec.tokens` learned tokens before every block with a scan, in place.

    Raises:
        ModelError: the model has no such block.
    """
    names = []
    for name, block in list(scans(model)):
        layer = block.in_proj
        weight = (layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer).weight
        block.affix = nn.Parameter(torch.randn(spec.tokens, weight.shape[1], device=weight.device) * 0.02)
        block.beside_active = True
        block.register_forward_pre_hook(_before, with_kwargs=True)
        block.register_forward_hook(_after, with_kwargs=True)
        names.append(f"{name}.affix")
    if not names:
        raise ModelError("method 'affix': no block of the model has a scan")
    return names


def _continues(args: tuple, kwargs: dict) -> bool:
    """Whether the sequence has begun in an earlier call, tokens and all."""
    state = args[1] if len(args) > 1 else kwargs.get("state")
    return state is not None


def _before(block: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    key = "u" if "u" in kwargs else "hidden_states" if "hidden_states" in kwargs else None
    u = args[0] if key is None else kwargs[key]
    if not block.beside_active:
        return args, kwargs
    if "transformers" in sys.modules and cache_in(args, kwargs) is not None:
        raise ModelError(
            "affix: transformers' cache has no place for a block's own tokens; generate with use_cache=False"
        )
    if _continues(args, kwargs):
        return args, kwargs
    if kwargs.get("seq_idx") is not None:
        raise ModelError("affix: sequences packed in a row have no place for tokens before each; give one a row")
    tokens = block.affix.to(u.dtype)
    b, m = len(u), len(tokens)
    if u.ndim == 4 and getattr(block, "channel_first", False):
        u = torch.cat([tokens.mT[None, :, :, None].expand(b, -1, m, u.shape[3]), u], 2)
    elif u.ndim == 4:
        u = torch.cat([tokens[None, :, None].expand(b, m, u.shape[2], -1), u], 1)
    else:
        tokens = tokens.expand(b, -1, -1)
        u = torch.cat([tokens, u, tokens] if _both_ends(block) else [tokens, u], 1)
    kwargs = dict(kwargs)
    for name in ("mask", "attention_mask"):
        if kwargs.get(name) is not None:
            mask = kwargs[name]
            one = mask.new_ones(len(mask), m)
            kwargs[name] = torch.cat([one, mask, one] if _both_ends(block) else [one, mask], 1)
    if key is None:
        return (u, *args[1:]), kwargs
    return args, kwargs | {key: u}


def _after(block: Any, args: tuple, kwargs: dict, output: Any) -> Any:
    if not block.beside_active or _continues(args, kwargs):
        return output
    y = output[0] if isinstance(output, tuple) else output
    m = len(block.affix)
    if y.ndim == 4:
        y = y[:, :, m:] if getattr(block, "channel_first", False) else y[:, m:]
    else:
        y = y[:, m:-m] if _both_ends(block) else y[:, m:]
    return (y, *output[1:]) if isinstance(output, tuple) else y


def _both_ends(block: Any) -> bool:
    return hasattr(block, "A_b_log")
