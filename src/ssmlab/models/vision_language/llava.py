"""Weights of LLaVA: as transformers has it (llava-hf), and in the layout of the original, version 1.5."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssmlab.core.errors import ModelError
from ssmlab.models.registry import create_model
from ssmlab.models.rules import Original, Rule
from ssmlab.models.vision_language.config import TRANSFORMERS, EncoderConfig
from ssmlab.models.weights import one_line

# OpenAI's processing for CLIP, which LLaVA's encoders have
CLIP: dict[str, Any] = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
TOWER, TEXT = "encoder.each.0.network", "language.backbone.network"
SELECT = {"default": "patch", "patch": "patch", "full": "cls_patch", "cls_patch": "cls_patch"}
HEADS = 64  # channels of a head in all of OpenAI's vision transformers
# fields of a configuration that say where it came from and not what it is
ABOUT = ("architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "quantization_config")

_VISION = [
    Rule(r"(?:model\.)?vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?embeddings\.position_ids", None),
    Rule(r"(?:model\.)?vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?(.*)", rf"{TOWER}.\1"),
    Rule(r".*rotary_emb\.inv_freq", None),  # computed, and stored by old versions
]
RULES_HF = [
    *_VISION,
    Rule(r"(?:model\.)?multi_modal_projector\.linear_1\.(.*)", r"projector.layers.0.\1"),
    Rule(r"(?:model\.)?multi_modal_projector\.linear_2\.(.*)", r"projector.layers.2.\1"),
    Rule(r"language_model\.lm_head\.(.*)", rf"{TEXT}.lm_head.\1"),
    Rule(r"lm_head\.(.*)", rf"{TEXT}.lm_head.\1"),
    Rule(r"language_model\.model\.(.*)", rf"{TEXT}.model.\1"),
    Rule(r"model\.language_model\.(.*)", rf"{TEXT}.model.\1"),
]
RULES = [
    *_VISION,
    Rule(r"model\.mm_projector\.(weight|bias)", r"projector.layers.0.\1"),  # of a single layer
    Rule(r"model\.mm_projector\.(\d+)\.(.*)", r"projector.layers.\1.\2"),
    Rule(r"model\.image_newline", None),  # of version 1.6's tiles, which are not read
    Rule(r"lm_head\.(.*)", rf"{TEXT}.lm_head.\1"),
    Rule(r"model\.((?:embed_tokens|layers|norm)\..*)", rf"{TEXT}.model.\1"),
]


def build_hf(config: dict[str, Any]) -> nn.Module:
    """Our network for a config.json of transformers' `LlavaForConditionalGeneration`.

    Args:
        config: with "processor", what preprocessor_config.json says, where it is there.
    Raises:
        ModelError: a variant that is not read.
    """
    from transformers import LlavaConfig as Hf

    try:
        whole: Any = Hf.from_dict({key: value for key, value in config.items() if key != "processor"})
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"transformers cannot read this config of LLaVA: {one_line(error)}") from error
    layer, bias = whole.vision_feature_layer, getattr(whole, "multimodal_projector_bias", True)
    if not isinstance(layer, int) or not bias or whole.projector_hidden_act != "gelu":
        raise ModelError(
            f"LLaVA with vision_feature_layer={layer}, projector_hidden_act={whole.projector_hidden_act!r} and "
            f"multimodal_projector_bias={bias} is not read; one layer, gelu and biases are"
        )
    vision, text = whole.vision_config, whole.text_config
    text.tie_word_embeddings = bool(whole.tie_word_embeddings)
    prefix = vision.model_type.startswith("clip")
    encoder = EncoderConfig(
        name=TRANSFORMERS, network=_fields(vision), layer=layer, image_size=vision.image_size,
        tokens=SELECT[whole.vision_feature_select_strategy] if prefix else "patch",
        processor=config.get("processor") or {}, **CLIP,
    )  # fmt: skip
    return _network(encoder, {"kind": "mlp", "depth": 2}, _fields(text), "vicuna_v1")


def build(config: dict[str, Any]) -> nn.Module:
    """Our network for a config.json of the original LLaVA.

    Args:
        config: with "vision_config", of transformers, for the image encoder, and "processor", where it is there.
    Raises:
        ModelError: a variant that is not read.
    """
    from transformers import AutoConfig

    kind = str(config.get("mm_projector_type") or "linear")
    if kind == "linear":
        projector: dict[str, Any] = {"kind": "linear"}
    elif kind.startswith("mlp") and kind.endswith("x_gelu") and kind[3:-6].isdigit():
        projector = {"kind": "mlp", "depth": int(kind[3:-6])}
    else:
        raise ModelError(f"LLaVA with mm_projector_type={kind!r} is not read; linear and mlp2x_gelu are")
    aspect = config.get("image_aspect_ratio") or "square"
    if aspect not in ("square", "pad"):
        raise ModelError(f"LLaVA with image_aspect_ratio={aspect!r} is not read; pad and square are")
    vision = dict(config["vision_config"])
    family = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral"}[config["model_type"]]
    known = AutoConfig.for_model(family)
    text = {key: value for key, value in config.items() if hasattr(known, key) and key not in (*ABOUT, "model_type")}
    encoder = EncoderConfig(
        name=TRANSFORMERS, network=vision, layer=int(config.get("mm_vision_select_layer", -2)),
        tokens=SELECT[config.get("mm_vision_select_feature", "patch")], image_size=vision["image_size"],
        fit="pad" if aspect == "pad" else "crop", processor=config.get("processor") or {}, **CLIP,
    )  # fmt: skip
    return _network(encoder, projector, {"model_type": family} | text, "vicuna_v1")


def vision_config(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The configuration of a CLIP image encoder, from the shapes of its tensors in LLaVA's names; {} without one.

    The original's config.json names the encoder and not its sizes.
    """
    named = {name.rpartition("vision_model.")[2]: shape for name, shape in shapes.items() if "vision_tower" in name}
    patches, places = named.get("embeddings.patch_embedding.weight"), named.get("embeddings.position_embedding.weight")
    if patches is None or places is None:
        return {}
    layers = {name.split(".")[2] for name in named if name.startswith("encoder.layers.")}
    side = round((places[0] - 1) ** 0.5)
    return {
        "model_type": "clip_vision_model",
        "hidden_size": patches[0],
        "patch_size": patches[2],
        "image_size": side * patches[2],
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, patches[0] // HEADS),
        "intermediate_size": named["encoder.layers.0.mlp.fc1.weight"][0],
    }


def _fields(config: Any) -> dict[str, Any]:
    """A configuration of transformers as its values."""
    values = {"model_type": config.model_type} | config.to_diff_dict()
    return {key: value for key, value in values.items() if key not in ABOUT and not key.startswith("_")}


def _network(encoder: EncoderConfig, projector: dict[str, Any], text: dict[str, Any], template: str) -> nn.Module:
    language = {"model": TRANSFORMERS, "config": text}
    return create_model("llava_mamba", encoders=(encoder,), projector=projector, language=language, template=template)


ORIGINALS = {
    "llava_hf": Original(licence="that of its parts (LLaVA 1.5: Llama 2 Community)", build=build_hf, rules=RULES_HF),
    "llava": Original(licence="that of its parts (LLaVA 1.5: Llama 2 Community)", build=build, rules=RULES),
}
