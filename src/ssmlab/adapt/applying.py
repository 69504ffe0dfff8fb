"""Adapters on a model, in place: everything else is frozen. And their way back: merged, or switched off for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssmlab.adapt.methods import additional_scan, affix, dimensions, lora, state_offset, vocabulary
from ssmlab.adapt.methods.low_rank import Difference, LowRank, Update, attach, attached, bake
from ssmlab.adapt.parts import Part, parts, tensor_of, tied
from ssmlab.adapt.presets import parse
from ssmlab.core.errors import ModelError
from ssmlab.nn import QuantizedLinear

# what widens tensors comes before PEFT, which asks for their sizes; what hooks into calls comes after it
_WIDENING = {"vocabulary": vocabulary, "additional_scan": additional_scan, "dimensions": dimensions}
_SEPARATE = {"affix": affix, "state_offset_h": state_offset, "state_offset_y": state_offset}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The options of `apply`; with them and the adapter's tensors the same model is built again."""

    method: str
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    dora: bool = False
    rslora: bool = False
    train: tuple[str, ...] = ()
    tokens: int = 4
    states: int = 4
    share: float = 0.1
    vocab_size: int = 0
    new_tokens: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("train", "new_tokens"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list, where it was read from a file
        for name in ("rank", "tokens", "states"):
            if getattr(self, name) < 1:
                raise ModelError(f"adapt: {name} must be at least 1, got {getattr(self, name)}")
        if self.alpha <= 0 or not 0 <= self.dropout < 1 or not 0 < self.share <= 1:
            raise ModelError(
                f"adapt: alpha > 0, 0 <= dropout < 1 and 0 < share <= 1 must hold, got {self.alpha}, {self.dropout} "
                f"and {self.share}"
            )

    @property
    def scale(self) -> float:
        """What a low-rank update is multiplied by."""
        rslora = self.rslora or any(method.rslora for method in parse(self.method).values())
        return self.alpha / (self.rank**0.5 if rslora else self.rank)


@dataclass(frozen=True)
class Adapted:
    """A model with adapters.

    model: the model itself.
    spec: the requested adaptation.
    adapted: names of the base's tensors that an adapter acts on.
    total: how many numbers the model without adapters has.
    """

    model: Any
    spec: Spec
    adapted: tuple[str, ...]
    total: int

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained."""
        return (parameter for parameter in self.model.parameters() if parameter.requires_grad)

    @property
    def trainable(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())


def apply(model: Any, method: str = "projections", *, alpha: float | None = None, **options: Any) -> Adapted:
    """Put adapters on a model, in place, and freeze everything else.

    Args:
        model: any language or vision model, of this package, of timm or of transformers (see `adapt.prepare`).
        method: a name of `adapt.METHODS`, or several as in "projections+conv".
        alpha: low-rank updates are scaled by alpha / rank; None is twice the rank.
        options: rank; dropout before low-rank updates of layers; dora, rslora: for any method; train: parameters or
            modules that are trained whole and saved with the adapter, such as a new "head", with * and ?; tokens: of
            affix, a block; states: of additional_scan, a channel; share: of sparse_dimensions; vocab_size: of
            vocabulary; new_tokens: the texts of its last tokens, which are kept with the adapter.
    Returns:
        The model with what was done to it.
    Raises:
        ModelError: an unknown method or option, a model that has adapters already, or one without such parts.
    """
    unknown = sorted(options.keys() - Spec.__dataclass_fields__.keys())
    if unknown:
        known = ", ".join(name for name in Spec.__dataclass_fields__ if name != "method")
        raise ModelError(f"adapt: unknown option {unknown[0]!r}; there are {known}")
    spec = Spec(method=method, alpha=float(2 * options.get("rank", 8) if alpha is None else alpha), **options)
    methods = parse(spec.method)
    if hasattr(model, "adaptation"):
        raise ModelError(f"{_name(model)} has adapters already; adapt.merge(model) makes them part of it")
    if _of_peft(model):
        raise ModelError(
            f"{_name(model)} has adapters of PEFT; give what model.merge_and_unload() returns, which has them in its "
            "weights, or model.unload(), which has none (adapt.check takes such a model as it is)"
        )
    there, base = parts(model), {id(parameter) for parameter in model.parameters()}
    total = sum(parameter.numel() for parameter in model.parameters())
    whole, chosen = _choose(model, methods, there, spec)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    dora = spec.dora or any(m.dora for m in methods.values())
    rslora = spec.rslora or any(m.rslora for m in methods.values())
    layers, names = _updates(model, chosen, spec, dora)
    for method_ in methods.values():
        if method_.extra in _WIDENING:
            names += _WIDENING[method_.extra].build(model, spec)
    if layers:
        lora.inject(model, layers, rank=spec.rank, alpha=spec.alpha, dropout=spec.dropout, dora=dora, rslora=rslora)
    for method_ in methods.values():
        if method_.extra in _SEPARATE:
            names += _SEPARATE[method_.extra].build(model, spec, method_.extra)
    trained = {id(parameter) for parameter in whole.values()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) not in base or id(parameter) in trained)
    # Batch norms keep their statistics in training too, which are the base's, unless they are trained whole
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not any(id(parameter) in trained for parameter in module.parameters()):
            module.ssmlab_handle = module.register_forward_pre_hook(_evaluate)  # type: ignore[assignment]  # no tensor
    model.adaptation = spec
    return Adapted(model, spec, tuple(dict.fromkeys([*names, *whole])), total)


def _choose(
    model: Any, methods: dict, there: list[Part], spec: Spec
) -> tuple[dict[str, nn.Parameter], dict[Part, str]]:
    """What is trained as it is, such as a new head, which has no base to differ from; what gets an update, and how.

    Returns:
        name -> parameter that is trained whole; other part -> "low_rank" or "direct".
    """
    named = dict(model.named_parameters())
    heads = {part.name for part in there if part.role == "head"} if "head" in methods else set()
    if "head" in methods and not heads:
        raise ModelError(f"method 'head': {_name(model)} has no linear layer at its end; leave it out")
    whole = {name: parameter for name, parameter in named.items() if name in heads}
    for pattern in spec.train:
        matched = {n: p for n, p in named.items() if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")}
        if not matched:
            raise ModelError(f"adapt: train={pattern!r} names no parameter of {_name(model)}")
        whole |= matched
    chosen: dict[Part, str] = {}
    for name, method in methods.items():
        found = 0
        for part in there:
            how = "low_rank" if part.role in method.low_rank else "direct" if part.role in method.direct else ""
            found += bool(how)
            if how and part.name not in whole:
                chosen.setdefault(part, how)
        if not found and (method.low_rank or method.direct) and name != "head":
            roles = ", ".join(method.low_rank + method.direct)
            raise ModelError(f"method {name!r}: {_name(model)} has no {roles}; `ssmlab adapt methods MODEL` lists more")
    return whole, chosen


def _updates(model: Any, chosen: dict[Part, str], spec: Spec, dora: bool) -> tuple[list[str], list[str]]:
    """Attach what acts on tensors; returns the layers that are left to PEFT, and the names of all tensors."""
    layers, names, done = [], [], set()
    quantized: list[str] = []  # wrapped last, as their biases are found by the names that they have now
    for part, how in chosen.items():
        tensor = tensor_of(model, part)
        if (part.name, part.rows) in done:
            continue
        same = tied(model, part) if part.role in ("embedding", "head") else [part]
        done |= {(other.name, other.rows) for other in same}
        names += [other.name for other in same]
        module = model.get_submodule(part.module)
        if isinstance(module, QuantizedLinear) and part.tensor == "weight":
            if part.rows is not None or dora or how != "low_rank":
                raise ModelError(f"{part.module} has weights of 8 bits: low-rank updates of the whole layer only")
            quantized.append(part.module)
            continue
        if (
            how == "low_rank"
            and part.rows is None
            and len(same) == 1
            and part.tensor == "weight"
            and lora.takes(module)
        ):
            layers.append(part.module)
        else:
            update: Update
            direct = how == "direct" or tensor.ndim < 2
            if not direct and part.rows is None:  # a low-rank update may have as many numbers as the tensor
                out, width = (tensor.flatten(1) if tensor.ndim == 4 else tensor).shape[-2:]
                direct = spec.rank * (out + width) >= out * width
            if direct:
                update = Difference(tensor)
            else:
                update = LowRank(tensor, spec.rank, spec.scale, rows=part.rows, dora=dora)
            for other in same:
                attach(model.get_submodule(other.module), other.tensor, update)
    for layer in quantized:
        lora.put_beside(model, layer, spec.rank, spec.scale, spec.dropout)
    return layers, names


def merge(model: Any) -> Any:
    """Make the adapters part of the weights, in place; the model has its own modules and names again.

    Weights of half precision are merged in it, so widen them before. A base of 8 bits becomes one in float32.

    Raises:
        ModelError: the model has no adapters, or some that no weights can stand for.
    """
    spec = _spec(model)
    separate = [name for name, method in parse(spec.method).items() if method.extra in _SEPARATE]
    if separate:
        raise ModelError(
            f"{', '.join(separate)}: acts next to the weights and cannot be merged into them; keep the adapter's "
            "folder and load it with adapt.load"
        )
    bake(model)
    lora.merge_layers(model)
    if any(isinstance(module, lora.Beside) for module in model.modules()):
        lora.widen(model)
    for method in parse(spec.method).values():
        if method.extra in _WIDENING:
            _WIDENING[method.extra].merged(model, spec)
    for module in model.modules():
        if hasattr(module, "ssmlab_handle"):
            module._forward_pre_hooks = type(module._forward_pre_hooks)(
                (key, hook) for key, hook in module._forward_pre_hooks.items() if hook is not _evaluate
            )
            del module.ssmlab_handle
    del model.adaptation
    return model.requires_grad_(True)


def mergeable(model: Any) -> bool:
    """Whether `merge` can make all adapters part of the weights."""
    return not any(method.extra in _SEPARATE for method in parse(_spec(model).method).values())


@contextmanager
def disabled(model: Any) -> Iterator[None]:
    """A context in which adapters are off, so that the model is its base. What is trained whole stays.

    What an adapter has widened stays wide, with zeros in the new places, which add nothing.

    Raises:
        ModelError: the model has no adapters.
    """
    _spec(model)
    layers = [layer for _, layer in lora.wrapped(model)]
    updates = [update for _, module, tensor in attached(model) for update in module.parametrizations[tensor]]
    blocks = [m for m in model.modules() if hasattr(m, "beside_active")]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        for update in updates:
            update.active = False
        for block in blocks:
            block.beside_active = False
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for update in updates:
            update.active = True
        for block in blocks:
            block.beside_active = True


def base_state(model: Any) -> dict[str, Tensor]:
    """The frozen tensors under the names that they have without adapters."""
    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            name = name.replace(".base_layer.", ".")
            if ".parametrizations." in name:
                module, _, rest = name.partition(".parametrizations.")
                name = f"{module}.{rest.removesuffix('.original')}"
            elif name.startswith("parametrizations."):
                name = name.removeprefix("parametrizations.").removesuffix(".original")
            found[name] = parameter.detach()
    return found


def _evaluate(module: nn.Module, inputs: tuple) -> None:
    module.training = False


def _of_peft(model: Any) -> bool:
    """Whether PEFT itself has put adapters on a model. What it leaves after merging, `peft_config`, is not one."""
    from peft import PeftModel

    return isinstance(model, PeftModel) or any(True for _ in lora.wrapped(model))


def _spec(model: Any) -> Spec:
    if not hasattr(model, "adaptation") and _of_peft(model):
        raise ModelError(f"{_name(model)} has adapters of PEFT, not of adapt.apply; use its own methods for them")
    if not hasattr(model, "adaptation"):
        raise ModelError(f"{_name(model)} has no adapters; adapt.apply(model, method) puts some on")
    return model.adaptation


def _name(model: Any) -> str:
    return getattr(model, "registry_name", None) or type(model).__name__
