"""Sparse dimension tuning: chosen channels and states of the scan's A, B and C are trained, entry by entry.

Source: Galim et al. 2025 (arXiv:2410.09016), section 5. A share of the channels is chosen, and in each half of its
states: by the weights that make B and C of them, or by `choose`, as in the paper, by what training would change in A.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssmlab.adapt.methods.low_rank import Entries, attach
from ssmlab.adapt.parts import Part, parts, scans, tensor_of
from ssmlab.core.errors import ModelError


def build(model: Any, spec: Any) -> list[str]:
    """Let `spec.share` of every scan's channels train, in place.

    Raises:
        ModelError: no block of the model has an A.
    """
    there = parts(model)
    names = []
    for name, _block in list(scans(model)):
        own = [p for p in there if p.module == name or p.module in (f"{name}.x_proj", f"{name}.x_proj_b")]
        for A in (p for p in own if p.role == "A" and p.tensor != "A_imag"):
            # The rows that make B and C; None where no matrix of (state, channel) makes them
            layer = f"{name}.x_proj_b" if A.tensor == "A_b_log" else name if A.tensor == "A_logs" else f"{name}.x_proj"
            B, C = (next((p for p in own if p.role == role and p.module == layer), None) for role in ("B", "C"))
            weight = tensor_of(model, A)
            score = torch.ones_like(weight) if B is None else _weights(model, B) * _weights(model, C)
            mask = chosen(score.view(weight.shape), spec.share)
            _attach(model, A, mask)
            names.append(A.name)
            if B is not None:
                both = tensor_of(model, B)
                wide = torch.zeros_like(both, dtype=torch.bool)
                turned = _turned(mask, both)
                for part in (B, C):
                    wide[..., slice(*part.rows), :] = turned
                _attach(model, B, wide)
                names.append(B.name)
    if not names:
        raise ModelError("method 'sparse_dimensions': no block of the model has an A")
    return names


def chosen(score: Tensor, share: float) -> Tensor:
    """bool (d, n) or (h,): the best half of the states in each of the best `share` of the channels."""
    if score.ndim == 1:
        mask = torch.zeros_like(score, dtype=torch.bool)
        mask[score.topk(math.ceil(share * len(score))).indices] = True
        return mask
    d, n = score.shape
    channels = score.sum(1).topk(math.ceil(share * d)).indices
    states = score[channels].topk(max(1, n // 2), dim=1).indices
    mask = torch.zeros_like(score, dtype=torch.bool)
    mask[channels[:, None], states] = True
    return mask


def choose(model: Any, loss: Callable[[], Tensor], *, steps: int = 1) -> None:
    """Choose again by the gradient of A, before training; as many entries as before.

    Args:
        model: with sparse_dimensions.
        loss: the loss of a batch, another one each time.
        steps: batches.
    """
    there = dict(_entries(model, "A_log", "A_b_log", "A_logs", "log_A_real"))
    scores = {name: torch.zeros_like(original) for name, (_, original) in there.items()}
    for _, original in there.values():
        original.requires_grad_(True)
    for _ in range(steps):
        found = torch.autograd.grad(loss(), [original for _, original in there.values()])
        for score, gradient in zip(scores.values(), found, strict=True):
            score += gradient.abs()
    inside = dict(_entries(model, "weight", "x_proj_weight"))
    for name, (update, original) in there.items():
        original.requires_grad_(False)
        share = len(update.index) / original.numel()
        share = share if original.ndim == 1 else len(update.index) / max(1, original.shape[1] // 2) / len(original)
        mask = chosen(scores[name], share - 1e-9)
        update.index.copy_(mask.flatten().nonzero().squeeze(1))
        block, _, tensor = name.rpartition(".")
        other = f"{block}.{'x_proj_b' if tensor == 'A_b_log' else 'x_proj'}.weight"
        other = f"{block}.x_proj_weight" if tensor == "A_logs" else other
        if other in inside:
            update, original = inside[other]
            wide = torch.zeros_like(original, dtype=torch.bool)
            states = mask.shape[1]
            wide[..., -2 * states : -states, :] = wide[..., -states:, :] = _turned(mask, original)
            update.index.copy_(wide.flatten().nonzero().squeeze(1))


def _entries(model: Any, *tensors: str):
    for name, module in model.named_modules():
        for tensor in tensors:
            updates = module.parametrizations[tensor] if tensor in getattr(module, "parametrizations", {}) else ()
            for update in updates:
                if isinstance(update, Entries):
                    yield f"{name.replace('.base_layer', '')}.{tensor}", (update, updates.original)


def _weights(model: Any, part: Part) -> Tensor:
    """|W| of rows (n, d), as (d, n); of a stack (k, n, d) as (k d, n)."""
    rows = tensor_of(model, part).detach()[..., slice(*part.rows or (None,)), :].abs()
    return rows.mT.flatten(0, -2)


def _turned(mask: Tensor, weight: Tensor) -> Tensor:
    """A mask (k d, n) as the rows of (k, n, d) or (n, d)."""
    return mask.mT if weight.ndim == 2 else mask.unflatten(0, (weight.shape[0], -1)).mT


def _attach(model: Any, part: Part, mask: Tensor) -> None:
    attach(model.get_submodule(part.module), part.tensor, Entries(tensor_of(model, part), mask))


def merged(model: Any, spec: Any) -> None:
    """Nothing but the values has changed."""
