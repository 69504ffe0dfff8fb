"""Adapters as PEFT keeps them in a folder, for transformers' Mamba, Mamba-2 and FalconMamba: read; of LoRA, written.

adapter_config.json says what they are, adapter_model.safetensors holds the tensors; names are those of transformers.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.adapt.applying import Adapted, merge, mergeable
from ssmlab.adapt.methods import lora
from ssmlab.adapt.methods.low_rank import Difference, LowRank, attached
from ssmlab.adapt.saving import CONFIG as OWN
from ssmlab.adapt.saving import load
from ssmlab.checkpoints.files import family_for, to_upstream
from ssmlab.core.errors import ModelError
from ssmlab.core.files import write_json, write_tensors
from ssmlab.models.registry import original
from ssmlab.models.rules import Rule, convert
from ssmlab.models.weights import one_line

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
OTHERS = ("FOURIERFT", "HRA", "IA3", "LOHA", "LOKR", "OFT")  # kinds besides LORA
MERGED = ("ADALORA", "BOFT", "VERA")  # kinds that PEFT itself merges into transformers' class of the model
_KEY = re.compile(r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
                  r"(\.weight)?")  # fmt: skip
# transformers' mixers read these layers' weights without calling the layer: PEFT refuses the one and ignores the other
BYPASSED = ("out_proj", "dt_proj")


def add_adapter(model: Any, folder: str | Path) -> Any:
    """Make saved adapters, ours or PEFT's, part of a model, in place; what no weights can stand for stays an adapter.

    Raises:
        ModelError: the folder has no adapter, or it does not fit the model.
    """
    folder = Path(folder)
    if (folder / OWN).is_file():
        adapted = load(model, folder).model
        return merge(adapted) if mergeable(adapted) else adapted
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder} has no {OWN} and no {CONFIG}; give a folder of `adapt.save` or of PEFT")
    if _read(folder)[0]["peft_type"] in MERGED:
        return _merged_by_peft(model, folder)
    load_peft(model, folder)
    lora.merge_layers(model)
    return model.requires_grad_(True)


def load_peft(model: Any, folder: str | Path) -> Any:
    """Put an adapter of PEFT on a model, in place, as PEFT's own layers; everything else is frozen.

    Args:
        model: with the weights that the adapter was trained on, converted or of this package's own training.
        folder: with adapter_config.json and adapter_model.safetensors. LoRA, rsLoRA and DoRA of linear layers and
            embeddings are read, ranks of single layers included, and parameters that were trained whole; and every kind
            of `OTHERS`.
    Raises:
        ModelError: a file is missing or damaged, it is another kind of adapter, or it does not fit the model.
    """
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key

    folder = Path(folder)
    content, tensors = _read(folder)
    if content["peft_type"] in MERGED:
        raise ModelError(f"{folder}: {content['peft_type']} is read only to be merged into the weights, by add_adapter")
    rules = _rules(model)
    if content["peft_type"] != "LORA":
        return _load_other(model, folder, content, tensors, rules)
    found: dict[str, dict[str, Tensor]] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    whole: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key.removeprefix(PREFIX))
        if match is None:
            whole |= convert({key.removeprefix(PREFIX): tensor}, rules)
            continue
        name = match["module"]
        (ours,) = (full.removesuffix(".weight") for full in convert({f"{name}.weight": tensor}, rules))
        found.setdefault(ours, {})[match["part"]] = tensor
        if match["part"] in ("lora_A", "lora_embedding_A"):
            ranks[ours] = len(tensor)
            alphas[ours] = (content.get("alpha_pattern") or {}).get(
                get_pattern_key(list(content.get("alpha_pattern") or {}), name), content["lora_alpha"]
            )
    _check(model, folder, found, whole)
    model.requires_grad_(False)
    if found:
        config = LoraConfig(
            r=content["r"], lora_alpha=content["lora_alpha"], lora_dropout=content.get("lora_dropout", 0.0),
            use_rslora=content.get("use_rslora", False), use_dora=content.get("use_dora", False),
            init_lora_weights=content.get("init_lora_weights", True),
            target_modules="|".join(map(re.escape, found)),
            rank_pattern={re.escape(name): rank for name, rank in ranks.items()},
            alpha_pattern={re.escape(name): alpha for name, alpha in alphas.items()},
        )  # fmt: skip
        lora.inject_config(model, config)
    with torch.no_grad():
        for name, parts in found.items():
            for part, tensor in parts.items():
                place = getattr(model.get_submodule(name), part)[lora.ADAPTER]
                getattr(place, "weight", place).copy_(tensor)
        for name, tensor in whole.items():
            model.get_parameter(name).requires_grad_(True).copy_(tensor)
    return model


def _load_other(
    model: Any, folder: Path, content: dict[str, Any], tensors: dict[str, Tensor], rules: list[Rule]
) -> Any:
    """Adapters of `OTHERS`: PEFT's layers around ours, with the tensors of the folder."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, set_peft_model_state_dict
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    kind, modules = content["peft_type"], dict(model.named_modules())
    places = {key: _place(key.removeprefix(PREFIX), modules, rules) for key in tensors}
    found = sorted({place[0] for place in places.values() if place})
    config: Any = PEFT_TYPE_TO_CONFIG_MAPPING[kind].from_pretrained(str(folder))
    config.target_modules = "|".join(map(re.escape, found))
    if inner := getattr(config, "feedforward_modules", None):
        ends = {name.rpartition(".")[2] for name in ([inner] if isinstance(inner, str) else inner)}
        config.feedforward_modules = "|".join(re.escape(name) for name in found if name.rpartition(".")[2] in ends)
    tuner: Any = PEFT_TYPE_TO_TUNER_MAPPING[kind]

    class Injected(tuner):
        def _check_target_module_compatiblity(self, peft_config, model, target_name):
            """PEFT refuses out_proj by the model's type, whose own class does not call it; ours does."""

    renamed = {".".join(place) if place else key.removeprefix(PREFIX): tensors[key] for key, place in places.items()}
    model.requires_grad_(False)
    try:
        Injected(model, config, lora.ADAPTER)
        own = {name for name, _ in model.named_parameters() if f".{lora.ADAPTER}" in name}
        result: Any = set_peft_model_state_dict(model, renamed, lora.ADAPTER)
        left = result.unexpected_keys
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder}: {kind} does not fit this model ({' '.join(str(error).split())[:200]})") from None
    if left or len(own) > len(tensors):
        raise ModelError(f"{folder} does not fit this model: {len(tensors)} tensors of {kind} for {len(own)} places")
    return model


def _merged_by_peft(model: Any, folder: Path) -> Any:
    """Adapters of `MERGED`: PEFT merges them into transformers' class with our weights, and those that it changed come
    back."""
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    family = family_for(model, "huggingface")
    config, before = to_upstream(model, family)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    network.load_state_dict(before)
    try:
        with warnings.catch_warnings():  # BOFT looks for a compiler of CUDA, and does without
            warnings.simplefilter("ignore")
            merged = PeftModel.from_pretrained(network, str(folder)).merge_and_unload()
    # Files that do not fit make PEFT raise nearly anything
    except Exception as error:
        raise ModelError(f"{folder}: PEFT cannot put this on the model ({one_line(error)})") from error
    changed = {name: t for name, t in merged.state_dict().items() if not torch.equal(t, before[name].to(t.dtype))}
    with torch.no_grad():
        for name, tensor in convert(changed, original(family).rules).items():
            model.get_parameter(name)[: len(tensor)] = tensor
    return model.requires_grad_(True)


def _place(key: str, modules: dict[str, Any], rules: list[Rule]) -> tuple[str, str] | None:
    """Our layer of a tensor, and the rest of its name; None for what belongs to no layer."""
    steps = key.split(".")
    for n in range(len(steps) - 1, 0, -1):
        try:
            (full,) = convert({".".join((*steps[:n], "weight")): torch.empty(0)}, rules)
        except (ModelError, RuntimeError, ValueError):
            continue
        if isinstance(modules.get(full.removesuffix(".weight")), nn.Linear | nn.Embedding | nn.Conv1d):
            return full.removesuffix(".weight"), ".".join(steps[n:])
    return None


def save_peft(model: Any, folder: str | Path, *, prepared: bool = False, base: str = "") -> Path:
    """Write the adapters of a model for PEFT on transformers' class of the same model.

    Linear layers and embeddings with low-rank updates are written; a weight that was trained directly becomes an
    update of full rank, which is exact.

    Args:
        model: of `adapt.apply`, or what that returned.
        folder: made where it is missing.
        prepared: the model there is given to `adapt.prepare` before PEFT gets it. Without, transformers' mixers never
            call `out_proj` and `dt_proj`: PEFT refuses the first and silently ignores the second, so that both are
            refused here.
        base: what adapter_config.json names as the base model: a folder, or owner/name on the hub.
    Raises:
        ModelError: PEFT or transformers has no place for one of the adapters; all are listed.
    """
    model, folder = model.model if isinstance(model, Adapted) else model, Path(folder)
    spec, names = model.adaptation, original(family_for(model, "huggingface")).inverse
    tensors, alphas = _updates(model)
    if not prepared:
        bypassed = sorted({name for name in tensors if name.rpartition(".")[2] in BYPASSED})
        if bypassed:
            raise ModelError(
                f"transformers does not call {bypassed[0]} ({len(bypassed)} such layers), so PEFT would have no effect "
                "there; adapt in_proj and x_proj alone, or give PEFT adapt.prepare(model) and say prepared=True"
            )
    written: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    scales: dict[str, float] = {}
    for name, parts in tensors.items():
        (full,) = convert({f"{name}.weight": next(iter(parts.values()))}, names)
        theirs = full.removesuffix(".weight")
        ranks[theirs] = len(parts["lora_A" if "lora_A" in parts else "lora_embedding_A"])
        scales[theirs] = alphas[name]
        for part, tensor in parts.items():
            ending = "" if "embedding" in part else ".weight"
            written[f"{PREFIX}{theirs}.{part}{ending}"] = tensor.detach().float().cpu().contiguous().clone()
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True,
        "r": spec.rank, "lora_alpha": spec.alpha, "lora_dropout": spec.dropout, "bias": "none",
        "use_dora": any("lora_magnitude_vector" in parts for parts in tensors.values()),
        "use_rslora": False,  # the scales are written out
        "target_modules": "|".join(map(re.escape, ranks)),
        "rank_pattern": {re.escape(name): rank for name, rank in ranks.items()},
        "alpha_pattern": {re.escape(name): scale * ranks[name] for name, scale in scales.items()},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, written, {"format": "pt"})
    write_json(folder / CONFIG, config)
    return folder


def _updates(model: Any) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
    """By layer the tensors as PEFT calls them, and the scale of B A."""
    found: dict[str, dict[str, Tensor]] = {}
    scales: dict[str, float] = {}
    problems = []
    done = set()
    layers: list[tuple[str, Any]] = list(lora.wrapped(model))
    for name, layer in layers:
        parts = {part: getattr(layer, part) for part in
                 ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")}  # fmt: skip
        found[name] = {part: getattr(held[lora.ADAPTER], "weight", held[lora.ADAPTER]) for part, held in parts.items()
                       if lora.ADAPTER in held}  # fmt: skip
        scales[name] = layer.scaling[lora.ADAPTER]
        done |= {id(parameter) for parameter in layer.parameters()}
    for name, module, tensor in attached(model):
        holder: Any = module.parametrizations
        updates = holder[tensor]
        done |= {id(parameter) for parameter in updates.parameters()}
        update = updates[0]
        low_rank = isinstance(update, LowRank) and update.m is None and update.B.shape[-2] == len(updates.original)
        if len(updates) > 1 or tensor != "weight" or not lora.takes(module) or not (
            low_rank or isinstance(update, Difference)
        ):  # fmt: skip
            problems.append(f"{name}.{tensor}")
            continue
        delta = update.delta if isinstance(update, Difference) else update.scale * (update.B @ update.A)
        if isinstance(module, nn.Embedding):  # (B A)^T is added there
            found[name] = {"lora_embedding_A": delta.mT, "lora_embedding_B": torch.eye(delta.shape[1])}
        else:
            found[name] = {"lora_A": torch.eye(delta.shape[1]), "lora_B": delta}
        scales[name] = 1.0
    problems += [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in done]
    if problems or not found:
        raise ModelError(
            f"PEFT has no place for {', '.join(problems[:4]) or 'anything'} ({len(problems)} in all); adapt whole "
            'linear layers, such as method="in_proj+x_proj", or write our own folder with adapt.save'
        )
    return found, scales


def _rules(model: Any) -> list[Rule]:
    """From transformers' names to ours; none where the family has no class there."""
    try:
        return list(original(family_for(model, "huggingface")).rules)
    except ModelError:
        return []


def _check(model: Any, folder: Path, found: dict[str, dict[str, Tensor]], whole: dict[str, Tensor]) -> None:
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    problems = []
    for name, parts in found.items():
        module: Any = modules.get(name)
        if module is None or not lora.takes(module):
            problems.append(f"{name} is no linear layer or embedding of the model")
            continue
        first, second = (
            ("lora_A", "lora_B") if isinstance(module, nn.Linear) else ("lora_embedding_A", "lora_embedding_B")
        )
        own = tuple(module.weight.shape)[:: -1 if isinstance(module, nn.Linear) else 1]
        sizes = (parts[first].shape[1], len(parts[second])) if {first, second} <= parts.keys() else ()
        if sizes != own:
            problems.append(f"{name} is {own} (in, out) in the model, {sizes or sorted(parts)} in the adapter")
    for name, tensor in whole.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            problems.append(f"{name} {tuple(tensor.shape)} has no place in the model")
    if problems:
        raise ModelError(f"{folder} does not fit this model: {'; '.join(problems[:4])} ({len(problems)} in all)")


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} has no {' and no '.join(missing)}; give the folder that PEFT's save_pretrained wrote"
        )
    try:
        content, tensors = json.loads((folder / CONFIG).read_text("utf-8")), load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder} is damaged: {error}") from None
    kind = content.get("peft_type") if isinstance(content, dict) else None
    if kind == "LORA" and not all(isinstance(content.get(key), int | float) for key in ("r", "lora_alpha")):
        raise ModelError(f"{folder / CONFIG}: LORA must have r and lora_alpha")
    known = ("LORA", *OTHERS, *MERGED)
    if kind not in known:
        raise ModelError(f"{folder / CONFIG}: peft_type {kind} is not read; those that are: {', '.join(known)}")
    return content, tensors
