"""Vision-language models in folders: our own layout, llava-hf's, LLaVA-1.5's and Cobra's.

layout       config.json                                            weights
ours         {"kind": "vision_language", "model", "config"}         model.safetensors
"llava_hf"   {"model_type": "llava", "text_config", ...}            model.safetensors, or several with an index
"llava"      {"model_type": "llava_llama", "mm_vision_tower", ...}  the same, or pytorch_model*.bin
"cobra"      {"model": {"vision_backbone_id", ...}}                 checkpoints/latest-checkpoint.pt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssmlab.checkpoints.find import CONFIG, LLAVA, PREPROCESS, WEIGHTS, read_object
from ssmlab.checkpoints.pieces import pieces, weights_files
from ssmlab.core.errors import ModelError
from ssmlab.core.files import write_json, write_tensors
from ssmlab.models.registry import create_model, original
from ssmlab.models.rules import convert
from ssmlab.models.vision_language import llava
from ssmlab.models.weights import UNREADABLE, fit, one_line, read_state_dict

COBRA = "checkpoints/latest-checkpoint.pt"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def save_vision_language(model: Any, folder: Path, preprocess: dict[str, Any] | None = None) -> Path:
    """Write a vision-language model in our layout: its parts in one file, its configuration, its preprocessing."""
    state: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    places: dict[tuple[int, tuple[int, ...]], str] = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and place in places:  # one tensor under two names, which a file holds once
            tied[name] = places[place]
            continue
        places[place] = name
        state[name] = tensor.detach().cpu().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / CONFIG,
        {"kind": "vision_language", "model": model.registry_name, "config": asdict(model.config), "tied": tied},
    )
    write_json(folder / PREPROCESS, preprocess or {})
    write_tensors(folder / WEIGHTS, state, {"format": "pt"})
    return folder


def load_vision_language(
    folder: Path, *, encoders: Sequence[Any] = (), networks: Sequence[Any] = ()
) -> tuple[Any, dict[str, Any]]:
    """A vision-language model in any of the layouts, on the CPU and in evaluation mode, and its preprocessing.

    Args:
        encoders, networks: of Cobra, whose folders hold no image encoders: their configurations, and the networks with
            weights; () takes those that the folder names from timm.
    Raises:
        ModelError: a file is missing or does not fit; all keys that disagree are listed.
    """
    config = read_object(folder / CONFIG)
    if isinstance(config.get("model"), str):
        if not isinstance(config.get("config"), dict):
            raise ModelError(f"{folder / CONFIG} must hold a config; copy the folder again")
        model: Any = create_model(config["model"], **config["config"])
        state = read_state_dict(folder / WEIGHTS)
        for name, other in config.get("tied", {}).items():
            if other in state:
                state[name] = state[other]
        fit(model, state, str(folder / WEIGHTS))
        about = folder / PREPROCESS
        return model.eval(), read_object(about) if about.is_file() else {}
    if isinstance(config.get("model"), dict):
        return load_cobra(folder, config["model"], encoders, networks)
    if config.get("model_type") not in LLAVA:
        raise ModelError(f"{folder} holds model_type={config.get('model_type')!r}, which is no LLaVA")
    family = "llava_hf" if "text_config" in config else "llava"
    state = dict(pieces(weights_files(folder)))
    config["processor"] = {}  # of transformers, where the folder has one; else CLIP's values with the encoder's size
    for name in PROCESSORS:
        if (folder / name).is_file():
            found = read_object(folder / name)
            config["processor"] = found.get("image_processor", found)
    if family == "llava":
        tower = Path(str(config.get("mm_vision_tower")))
        local = read_object(tower / CONFIG) if (tower / CONFIG).is_file() else {}
        local = local.get("vision_config", local)
        found = local or llava.vision_config({name: tuple(tensor.shape) for name, tensor in state.items()})
        if not any("vision_tower" in name for name in state):
            if not local:
                raise ModelError(
                    f"{folder} has no image encoder; fetch {config.get('mm_vision_tower')} and write its folder into "
                    f"{folder / CONFIG} as mm_vision_tower"
                )
            inside = dict(pieces(weights_files(tower)))
            state |= {f"model.vision_tower.vision_tower.{k}": v for k, v in inside.items() if "text_model" not in k}
        config["vision_config"] = {"model_type": "clip_vision_model"} | found
    known = original(family)
    model = known.build(config)
    fit(model, _aligned(model, convert(state, known.rules)), str(folder))
    return model.eval(), {"template": model.config.template}


def load_cobra(
    folder: Path, config: dict[str, Any], encoders: Sequence[Any], networks: Sequence[Any]
) -> tuple[Any, dict[str, Any]]:
    """Projector and language model from a file of Cobra's, image encoders from timm."""
    state = cobra_state(folder / COBRA)
    known = original("cobra")
    found = convert(state, known.rules)
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    model: Any = known.build(config | {"shapes": shapes, "encoders": tuple(encoders)})
    stored = any(name.startswith("encoder.") for name in found)
    if not stored:
        given = list(networks)
        for encoder in () if given else model.encoder:
            options = {"num_classes": 0, "image_size": encoder.config.image_size} | encoder.config.network
            given.append(create_model(encoder.config.name, pretrained=True, **options))
        for encoder, network in zip(model.encoder, given, strict=True):
            encoder.network = network.eval()
        found |= {name: tensor for name, tensor in model.state_dict().items() if name.startswith("encoder.")}
    fit(model, found, str(folder / COBRA))
    return model.eval(), {"template": model.config.template}


def cobra_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of Cobra's by their names, "llm_backbone.llm.backbone.embedding.weight" and so on.

    Raises:
        ModelError: there is no such file, or it is of another form.
    """
    if not path.is_file():
        raise ModelError(f"there is no {path}; Cobra's folders have their weights there")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ModelError(f"{path} is no file of Cobra: {one_line(error)}") from error
    parts = stored.get("model") if isinstance(stored, dict) else None
    if not isinstance(parts, dict) or not {"projector", "llm_backbone"} <= parts.keys():
        raise ModelError(f"{path} must hold model.projector and model.llm_backbone")
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def _aligned(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys of an image encoder as the installed transformers has them: some versions have one module more around it."""
    tower, inner = f"{llava.TOWER}.", f"{llava.TOWER}.vision_model."
    wanted = model.state_dict()
    if any(name.startswith(inner) for name in wanted):
        state = {k.replace(tower, inner, 1) if k.startswith(tower) else k: v for k, v in state.items()}
    head = f"{llava.TEXT}.lm_head.weight"
    if head in wanted and head not in state and model.language.backbone.network.config.tie_word_embeddings:
        state[head] = state[f"{llava.TEXT}.model.embed_tokens.weight"]
    return state
