"""The parts of a model that adapters can be put on, found by the names that upstream's and our blocks share.

A block is a module with an `in_proj` and an `out_proj`, with a `qkv` and a `proj` as attention has, or with a `q_proj`
and a `kv_proj` as attention to another sequence has. Its class does not matter, so that transformers' mixers and the
originals' are found as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

from ssmlab.models.language.mamba_lm import NormedParts
from ssmlab.nn import Factorized, QuantizedLinear

_A = ("A_log", "A_b_log", "A_logs", "log_A_real", "A_imag")
_D = ("D", "D_b", "Ds")
_DT_BIAS = ("dt_bias", "dt_projs_bias", "log_dt")
_LINEAR = {"in_proj": "in_proj", "x_proj": "x_proj", "x_proj_b": "x_proj", "dt_proj": "dt_proj",
           "dt_proj_b": "dt_proj", "out_proj": "out_proj", "qkv": "in_proj", "proj": "out_proj", "q_proj": "in_proj",
           "kv_proj": "in_proj"}  # fmt: skip
_BLOCKS = ({"in_proj", "out_proj"}, {"qkv", "proj"}, {"q_proj", "kv_proj", "out_proj"})
_STACKED = {"x_proj_weight": "x_proj", "dt_projs_weight": "dt_proj"}  # (k, out, in), of SS2D
_CONV = ("conv1d", "conv1d_b", "conv1d_x", "conv1d_z", "conv2d")
_MLP = ("fc1", "fc2")


@dataclass(frozen=True)
class Part:
    """A tensor of the model, or rows of it.

    role: "in_proj", "x_proj", "dt_proj", "out_proj", "A", "D", "dt_bias", "conv", "bias", "norm", "mlp", "embedding",
        "head"; of a slice "in_proj.x", "in_proj.z", "dt", "B" or "C".
    module: the name of the module that holds it.
    tensor: its name there.
    rows: first and last + 1 of the outputs that the part is; None is all of them.
    """

    role: str
    module: str
    tensor: str
    rows: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The parameter's name in the model without adapters."""
        return f"{self.module}.{self.tensor}" if self.module else self.tensor


def parts(model: nn.Module) -> list[Part]:
    """Every part of a model without adapters, in its order; a tensor may be in several."""
    found = [*_ends(model)]
    heads = {part.module for part in found if part.role == "head"}
    for name, module in model.named_modules():
        if is_block(module):
            found += _of_block(name, module)
        found += [
            Part("mlp", _join(name, layer), "weight")
            for layer in _MLP
            if all(isinstance(getattr(module, other, None), nn.Linear | QuantizedLinear) for other in _MLP)
        ]
        if "Norm" in type(module).__name__:
            own = dict(module.named_parameters(recurse=False))
            found += [Part("norm", name, tensor) for tensor in own]
        shown = isinstance(module, Factorized)  # its weight and bias are those of the layers inside
        in_head = any(name == head or name.startswith(f"{head}.") for head in heads)
        own_bias = isinstance(getattr(module, "bias", None), nn.Parameter) and not shown and not in_head
        if own_bias and not name.rpartition(".")[2].startswith("dt_proj"):
            found.append(Part("bias", name, "bias"))
    return found


def is_block(module: nn.Module) -> bool:
    """Whether a module mixes positions between an input and an output projection."""
    layers = dict(module.named_children())
    return any(names <= layers.keys() for names in _BLOCKS)


def scans(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The blocks with a state space inside, by name."""
    for name, module in model.named_modules():
        if is_block(module) and _has_scan(module):
            yield name, module


def _of_block(name: str, block: nn.Module) -> list[Part]:
    own = dict(block.named_parameters(recurse=False))
    layers = dict(block.named_children())
    found = [
        Part(_LINEAR[layer], _join(name, inner), "weight")
        for layer in _LINEAR
        if hasattr(layers.get(layer), "weight") or isinstance(layers.get(layer), NormedParts)
        for inner in _factors(layer, layers[layer])
    ]
    found += [Part(role, name, tensor) for tensor, role in _STACKED.items() if tensor in own]
    for role, known in (("A", _A), ("D", _D), ("dt_bias", _DT_BIAS)):
        found += [Part(role, name, tensor) for tensor in known if tensor in own]
    for layer in ("dt_proj", "dt_proj_b"):
        if getattr(layers.get(layer), "bias", None) is not None:
            found.append(Part("dt_bias", _join(name, last_factor(layer, layers[layer])), "bias"))
    found += [Part("conv", _join(name, layer), "weight") for layer in _CONV if layer in layers]
    return found + slices(name, block)


def _factors(layer: str, module: nn.Module) -> list[str]:
    """The names of the linear layers that a layer consists of: itself, or those of a factorised or normed one."""
    if not isinstance(module, Factorized | NormedParts):
        return [layer]
    return [f"{layer}.{inner}" for inner, child in module.named_children() if isinstance(child, nn.Linear)]


def last_factor(layer: str, module: nn.Module) -> str:
    """The name of the linear layer whose rows are a layer's outputs: itself, or P of a factorised one."""
    inner = "P" if isinstance(module, Factorized) else "linear" if isinstance(module, NormedParts) else ""
    return f"{layer}.{inner}" if inner else layer


def slices(name: str, block: Any) -> list[Part]:
    """The parts of a block's projections: the x and z halves of in_proj, and what makes dt, B and C."""
    if not _has_scan(block) or not hasattr(block.in_proj, "weight"):
        return []
    inside, total = _join(name, last_factor("in_proj", block.in_proj)), block.in_proj.weight.shape[0]
    if hasattr(block, "num_angles"):  # Mamba-3, whose list of parts begins with z, x, B, C, dt
        ends = [0, *accumulate(block.parts)]
        roles = ("in_proj.z", "in_proj.x", "B", "C", "dt")
        return [Part(role, inside, "weight", (ends[i], ends[i + 1])) for i, role in enumerate(roles)]
    if not hasattr(block, "x_proj") and not hasattr(block, "x_proj_weight") and hasattr(block, "A_log"):
        # Of Mamba-2: in_proj makes z0, x0 (the MLP), z, x, B, C, dt, in this order
        d_mlp, d_ssm, width = head_sizes(block)
        z = 2 * d_mlp
        x, B = z + d_ssm, z + 2 * d_ssm
        C, dt = B + width, B + 2 * width
        rows_of = {"in_proj.z": (z, x), "in_proj.x": (x, B), "B": (B, C), "C": (C, dt), "dt": (dt, total)}
        return [Part(role, inside, "weight", rows) for role, rows in rows_of.items()]
    gated = getattr(block, "gate", True)
    half = total // 2 if gated else total
    found = [Part("in_proj.x", inside, "weight", (0, half))]
    found += [Part("in_proj.z", inside, "weight", (half, total))] if gated else []
    for layer, steps in (("x_proj", "dt_proj"), ("x_proj_b", "dt_proj_b")):
        if hasattr(block, layer):
            inside = _join(name, last_factor(layer, getattr(block, layer)))
            rank, rows = getattr(block, steps).in_features, _rows(getattr(block, layer))
            found += _dt_B_C(inside, "weight", rank, (rows - rank) // 2)
    if hasattr(block, "x_proj_weight"):
        rank, rows = block.dt_projs_weight.shape[-1], block.x_proj_weight.shape[-2]
        found += _dt_B_C(name, "x_proj_weight", rank, (rows - rank) // 2)
    return found


def _rows(layer: Any) -> int:
    return sum(layer.parts) if isinstance(layer, NormedParts) else layer.weight.shape[0]


def _has_scan(block: nn.Module) -> bool:
    return any(hasattr(block, tensor) for tensor in (*_A, *_DT_BIAS))


def _dt_B_C(module: str, tensor: str, rank: int, states: int) -> list[Part]:
    ends = (0, rank, rank + states, rank + 2 * states)
    return [Part(role, module, tensor, (ends[i], ends[i + 1])) for i, role in enumerate(("dt", "B", "C"))]


def head_sizes(block: Any) -> tuple[int, int, int]:
    """Of a Mamba-2 block: channels of its MLP, of its heads, and of B, from the shapes of its tensors."""
    heads, convolved = block.A_log.numel(), block.conv1d.weight.shape[0]
    inner, total = block.out_proj.weight.shape[1], block.in_proj.weight.shape[0]
    d_ssm = 2 * inner + convolved + heads - total
    return inner - d_ssm, d_ssm, (convolved - d_ssm) // 2


def _ends(model: Any) -> list[Part]:
    """Embeddings, the stem of a vision model, and the head."""
    names = {id(module): name for name, module in model.named_modules()}
    found = [Part("embedding", name, "weight") for name, m in model.named_modules() if isinstance(m, nn.Embedding)]
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "patch_embed":
            inner = ((inside, m) for inside, m in module.named_modules() if isinstance(m, nn.Conv2d))
            found += [Part("embedding", _join(name, inside), "weight") for inside, m in inner]
    for head in head_modules(model):
        own = [*dict(head.named_parameters(recurse=False)), *getattr(head, "parametrizations", ())]
        found += [Part("head", names[id(head)], tensor) for tensor in own]
    return found


def head_modules(model: Any) -> list[nn.Module]:
    """The linear layers that end a model: its classifier, or the head of the next token."""
    found = None
    if hasattr(model, "get_output_embeddings"):
        found = model.get_output_embeddings()
    elif hasattr(model, "get_classifier"):
        found = model.get_classifier()
    found = found or getattr(model, "lm_head", None)
    heads = found if isinstance(found, (tuple, list)) else [found]
    return [head for head in heads if isinstance(head, nn.Linear)]


def tied(model: nn.Module, part: Part) -> list[Part]:
    """All parts that are the same tensor as this one, itself included."""
    stored = _stored(model, part)
    return [p for p in _ends(model) if _stored(model, p) is stored] or [part]


def _stored(model: nn.Module, part: Part) -> Tensor:
    """The tensor that a part is made from, which is the same wherever it is read."""
    module: Any = model.get_submodule(part.module)
    updated = getattr(module, "parametrizations", {})
    return updated[part.tensor].original if part.tensor in updated else getattr(module, part.tensor)


def tensor_of(model: nn.Module, part: Part) -> Tensor:
    """The part's whole tensor."""
    return getattr(model.get_submodule(part.module), part.tensor)


def _join(module: str, name: str) -> str:
    return ".".join(filter(None, (module, name)))
