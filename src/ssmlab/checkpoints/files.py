"""Language and translation models in folders: our own layout, that of state-spaces/mamba, and that of Hugging Face.

layout          config.json                            weights
"ssmlab"        {"model": name, "config": {...}}       model.safetensors
"state-spaces"  arguments of the original              pytorch_model.bin, which the original reads
"huggingface"   {"model_type": "mamba", ...}           model.safetensors, or several with an index
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.checkpoints.find import HYBRIDS, find_folder, read_object
from ssmlab.checkpoints.pieces import WINDOW, outline, pieces, weights_files
from ssmlab.core.errors import ModelError, UserError
from ssmlab.core.files import read_json, write_file, write_json, write_tensors
from ssmlab.models.catalogue import find_weights, is_repository
from ssmlab.models.download import local_folder
from ssmlab.models.language.language_model import NO_DECAY
from ssmlab.models.registry import MODELS, create_model, kind_of, original
from ssmlab.models.rules import Rule, convert
from ssmlab.models.weights import check_depth, fit, one_line
from ssmlab.nn.factorized import factorize_like_, factorized_ranks
from ssmlab.nn.linear import Linear, QuantizedLinear

# model_type of Hugging Face, layer of state-spaces
HUGGING_FACE = {"mamba": "mamba1_hf", "mamba2": "mamba2_hf", "falcon_mamba": "falcon_mamba", "marian": "marian"}
STATE_SPACES = {"Mamba1": "mamba1", "Mamba2": "mamba2", "Mamba3": "mamba3"}
DEPTHS = (
    "n_layer",
    "n_encoder_layer",
    "num_hidden_layers",
    "num_layers",
    "encoder_layers",
    "decoder_layers",
)  # fields of a config.json that count layers
LAYOUTS = ("ssmlab", "state-spaces", "huggingface")


def load_language_model(path: str | Path, dtype: torch.dtype | None = None, *, int8: bool = False) -> Any:
    """The language model in a folder of any of the layouts, on the CPU and in evaluation mode.

    The tensors become the model's parameters as they are read, without initial values before or a copy after: memory
    grows by the model in the requested precision. No code in a file is run.

    Args:
        path: the folder, the folder of a run with one language model in it, a file in one of these, or a published
            name: `owner/name` on the Hugging Face Hub, or one of ours, such as mamba_lm_130m.
        dtype: of the parameters; None takes the file's, that of the embedding. `NO_DECAY`, the dynamics, stay as wide
            as they are in the file: they are few, and rounding them moves the slow states.
        int8: the weights of linear layers in 8 bits, as by `nn.quantize_linear_`.
    Raises:
        ModelError: a file is missing or is of another kind of model; keys that do not fit are listed together.
    """
    folder = language_folder(path)
    config = read_object(folder / "config.json")
    check_vocabulary(config, folder)
    files = weights_files(folder)
    tensors = outline(files)
    own = config.get("config")
    sizes = config | (own if isinstance(own, dict) else {})
    check_depth(folder / "config.json", {k: v for k, v in sizes.items() if k in DEPTHS}, len(tensors))
    try:
        with torch.device("meta"):
            model, rules = _from_config(config, folder)
    except UserError:
        raise
    except (TypeError, AttributeError, RuntimeError) as error:  # what a size of a wrong kind leads to
        raise ModelError(f"{folder / 'config.json'} has values that make no model: {one_line(error)}") from error
    found = convert(tensors, rules)
    whole = [f"{name} {str(tensor.dtype)[6:]}" for name, tensor in found.items() if not tensor.is_floating_point()]
    if whole:
        raise ModelError(f"{folder}: {len(whole)} tensors are no floating-point numbers: {', '.join(whole[:5])}")
    with torch.device("meta"):  # compares names and shapes, copies nothing
        fit(model, dict(found), str(folder))
    return _filled(model, files, rules, found, dtype, int8).eval()


def language_folder(path: str | Path, *, accept_licence: bool = False) -> Path:
    """The folder of the language model that a path or a published name means; a name's is downloaded.

    Raises:
        ModelError: there is none, or several.
    """
    if is_repository(str(path)) or find_weights(str(path)) is not None:
        path = local_folder(path, accept_licence=accept_licence)
    return find_folder(Path(path))[0]


def check_vocabulary(config: dict[str, Any], folder: Path) -> None:
    """Refuse what `convert` once wrote of models of bytes, bases and sounds: rows that only fill up an embedding were
    tokens there, and would be drawn and count in every loss.

    In our own layout these rows are known (`LanguageConfig.vocab_multiple`). Without a tokenizer's file the separator
    between documents is the last token, which preprocess.json has.
    """
    try:
        about = read_json(folder / "preprocess.json")
        separator_id, last = about["mark"], about.get("tokenizer") == "bytes" or about.get("kind") in ("dna", "audio")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return  # not a model that was trained here
    size = config.get("vocab_size")
    if "model" in config or not (last and isinstance(size, int) and isinstance(separator_id, int)):
        return
    if separator_id + 1 < size == 8 * math.ceil((separator_id + 1) / 8):
        raise ModelError(
            f"{folder} has {size} tokens, of which {separator_id + 1} exist: an older ssmlab wrote it and counted "
            "what fills up the vocabulary; convert the run's model again with `ssmlab convert`"
        )


def _from_config(config: dict[str, Any], folder: Path) -> tuple[Any, Sequence[Rule]]:
    """The network that a config.json describes, and the map from the names in its files."""
    if "model" not in config:
        known = original(family_of(config))
        return known.build(config), known.rules
    own = config.get("config")
    if kind_of(config["model"]) not in ("language", "translation") or not isinstance(own, dict):
        raise ModelError(
            f"{folder} holds {config['model']!r}, which is no language model of ours; `ssmlab classify` is for "
            "classifiers, `ssmlab segment` for segmentation networks"
        )
    return factorize_like_(create_model(config["model"], **own), config.get("factorized", {})), []


def _filled(
    model: Any,
    files: list[Path],
    rules: Sequence[Rule],
    found: dict[str, Tensor],
    dtype: torch.dtype | None,
    int8: bool,
) -> Any:
    """A network of the meta device with the tensors of files, `found` without values, for its parameters."""
    tied, head, embedding = model.config.tie_embeddings, "lm_head.weight", "backbone.embedding.weight"
    first = embedding if embedding in found else head
    dtype = found[first].dtype if dtype is None else dtype
    mapped = found[first].dtype == dtype and not int8  # else no tensor may keep the mapped file in memory
    joined = any(rule.join[1] > 1 for rule in rules)  # one of ours may need several of a file
    done: set[str] = set()
    tensors = pieces(files, math.inf if mapped or joined else WINDOW)
    for group in [dict(tensors)] if joined else ({key: tensor} for key, tensor in tensors):
        for name, value in convert(group, rules).items():
            name = embedding if tied and name == head else name
            if name in done:
                continue
            done.add(name)
            _assign(model, name, value, dtype, int8, copy=not mapped)
    if tied and int8:
        _assign(model, head, model.backbone.embedding.weight.detach(), dtype, int8, copy=False)
    elif tied:
        model.lm_head.weight = model.backbone.embedding.weight
    return model


def _assign(model: Any, name: str, value: Tensor, dtype: torch.dtype, int8: bool, *, copy: bool) -> None:
    """Make a tensor a parameter; where int8 is requested, that of a linear layer in 8 bits."""
    parent, _, last = name.rpartition(".")
    module = model.get_submodule(parent)
    if int8 and last == "weight" and isinstance(module, Linear):
        module.weight = nn.Parameter(value, requires_grad=False)
        above, _, own = parent.rpartition(".")
        setattr(model.get_submodule(above), own, QuantizedLinear.of(module))
        return
    wide = torch.promote_types(value.dtype, dtype) if last in NO_DECAY else dtype
    module.load_state_dict({last: value.to(wide, copy=copy)}, strict=False, assign=True)


def save_language_model(
    model: Any,
    folder: str | Path,
    *,
    layout: str = "ssmlab",
    ends: Sequence[int] = (),
    special: Mapping[str, int | None] | None = None,
    kind: str = "language",
) -> Path:
    """Write a language model so that `load_language_model` builds it again, and the original does its own layout.

    Every file gets a temporary name first, so that a folder never holds half a file.

    Args:
        model: of `create_model` or `from_upstream`.
        folder: made where it is missing.
        layout: "ssmlab" for any model, "state-spaces" or "huggingface" for those that the originals have.
        ends: tokens that end a text, for Hugging Face's configuration; without any, its generation stops at none, where
            its classes would take 0 or 2, whatever these are.
        special: bos_token_id and pad_token_id for that configuration.
        kind: of the model whose layers these are, for our own layout.
    Raises:
        ModelError: an unknown layout, or one that cannot hold this model.
    """
    if layout not in LAYOUTS:
        raise ModelError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    small = [name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)]
    if small:
        raise ModelError(
            f"{len(small)} layers have int8 weights ({small[0]}, ...), which no layout holds; save the model as it was "
            "before quantize_linear_, and quantise again after loading: it takes seconds"
        )
    if layout == "ssmlab":
        config, state = {"kind": kind, "model": model.registry_name, "config": asdict(model.config)}, model.state_dict()
        if ranks := factorized_ranks(model):
            config["factorized"] = ranks
    else:
        config, state = to_upstream(model, family_for(model, layout))
    if layout == "huggingface":
        config |= {"bos_token_id": None, "pad_token_id": None} | dict(special or {})
        config["eos_token_id"] = ends[0] if len(ends) == 1 else list(ends) or None
        config["dtype"] = str(model.backbone.embedding.weight.dtype).removeprefix("torch.")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "state-spaces":  # the original wants every key in this file, twice where tied
        write_file(folder / "pytorch_model.bin", lambda path: torch.save(state, path))
    else:
        if model.config.tie_embeddings:
            del state["lm_head.weight"]
        write_tensors(folder / "model.safetensors", state, {"format": "pt"})
    write_json(folder / "config.json", config)
    return folder


def to_upstream(model: Any, family: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An original's configuration and tensors, by its names, for a model of ours: the inverse of `from_upstream`.

    Raises:
        ModelError: an unknown family, one without a way back, or one that cannot hold this model.
    """
    known = original(family)
    if known.export is None:
        raise ModelError(f"models cannot be written as {family} yet; the families that can have an `export`")
    config, state = model.config, model.state_dict()
    if not config.padded_logits:  # the original hands out a logit for every row, so no row may be without a token
        config = replace(config, vocab_multiple=1)
        for name in ("backbone.embedding.weight", "lm_head.weight", "lm_head.bias"):
            if name in state:
                state[name] = state[name][: config.vocab_size]
    return known.export(config), convert(state, known.inverse)


def family_of(config: dict[str, Any]) -> str:
    """Which family an original's config.json is of.

    Raises:
        ModelError: of none that we have.
    """
    kind = config.get("model_type")
    if kind in HUGGING_FACE:
        return HUGGING_FACE[kind]
    layer = (config.get("ssm_cfg") or {}).get("layer", "Mamba1")
    if kind is None and "d_model" in config and layer in STATE_SPACES:
        return STATE_SPACES[layer]
    if kind is not None:
        raise ModelError(
            f"config.json is of model_type={kind!r}; of Hugging Face's models {', '.join(HUGGING_FACE)} are known, and "
            f"`ssmlab generate` and `ssmlab evaluate` take {', '.join(HYBRIDS)} too"
        )
    known = ", ".join((*HUGGING_FACE, *STATE_SPACES))
    raise ModelError(f"config.json has model_type=None and layer={layer!r}; known are {known}")


def family_for(model: nn.Module, layout: str) -> str:
    """The family that a layout stores a model as.

    Raises:
        ModelError: the layout has no such models.
    """
    family = MODELS[str(model.registry_name)].family
    normed = getattr(model.config, "mixer_norm_eps", None) is not None
    families = {
        ("state-spaces", "mamba_lm"): "mamba1",
        ("state-spaces", "mamba2_lm"): "mamba2",
        ("state-spaces", "mamba3_lm"): "mamba3",
        ("huggingface", "mamba_lm"): "falcon_mamba" if normed else "mamba1_hf",
        ("huggingface", "mamba2_lm"): "mamba2_hf",
        ("huggingface", "translation_transformer"): "marian",
    }
    if (layout, family) not in families:
        raise ModelError(f'the layout {layout!r} has no models of the family {family}; save it with layout="ssmlab"')
    return families[layout, family]
