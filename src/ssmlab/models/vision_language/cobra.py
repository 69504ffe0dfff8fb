"""Weights of Cobra (arXiv:2403.14520): a Mamba that reads what DINOv2 and SigLIP see."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssmlab.core.errors import ModelError
from ssmlab.models.registry import create_model
from ssmlab.models.rules import Original, Rule
from ssmlab.models.vision_language.config import EncoderConfig

HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # SigLIP's
# the encoders by Cobra's names, as timm has them, with the images' side
DINO, SIGLIP = "timm/vit_large_patch14_reg4_dinov2.lvd142m", "timm/vit_so400m_patch14_siglip_384"
TOWERS: dict[str, tuple[int, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "dinosiglip-vit-so-384px": (384, ((DINO, {}), (SIGLIP, HALF))),
    "siglip-vit-so400m-384px": (384, ((SIGLIP, HALF),)),
    "siglip-vit-so400m": (224, (("timm/vit_so400m_patch14_siglip_224", HALF),)),
    "dinov2-vit-l": (224, ((DINO, {}),)),
}
FITS = {"resize-naive": "stretch", "resize-crop": "crop", "letterbox": "pad"}
PROJECTORS = (("fused-gelu-mlp", "fused_mlp"), ("gelu-mlp", "mlp"), ("linear", "linear"))

RULES = [
    Rule(r"projector\.projector\.(weight|bias)", r"projector.layers.0.\1"),
    Rule(r"projector\.projector\.(\d+)\.(.*)", r"projector.layers.\1.\2"),
    Rule(r"llm_backbone\.llm\.(.*)", r"language.\1"),
    Rule(r"vision_backbone\.dino_featurizer\.(.*)", r"encoder.each.0.network.\1"),
    Rule(r"vision_backbone\.siglip_featurizer\.(.*)", r"encoder.each.1.network.\1"),
    Rule(r"vision_backbone\.featurizer\.(.*)", r"encoder.each.0.network.\1"),
]


def build(config: dict[str, Any]) -> nn.Module:
    """Our network for the "model" table of a config.json of Cobra.

    Args:
        config: with "shapes", of the file's tensors by our names, which say the sizes of the language model, and
            "encoders" where they are other ones than `vision_backbone_id` says.
    Raises:
        ModelError: a variant that is not read.
    """
    arch, shapes = str(config.get("arch_specifier")), config["shapes"]
    kind = next((ours for theirs, ours in PROJECTORS if arch.endswith(theirs)), None)
    if kind is None:
        raise ModelError(f"Cobra with arch_specifier={arch!r} is not read; fused-gelu-mlp, gelu-mlp and linear are")
    return create_model(
        "llava_mamba",
        encoders=config.get("encoders") or towers(config),
        projector={"kind": kind, "depth": 2},
        language=language(shapes),
        template="zephyr" if str(config.get("llm_backbone_id")).endswith("zephyr") else "cobra",
    )


def towers(config: dict[str, Any]) -> tuple[EncoderConfig, ...]:
    """The image encoders of a Cobra model.

    Raises:
        ModelError: unknown ones.
    """
    name = config.get("vision_backbone_id")
    if name not in TOWERS:
        raise ModelError(f"Cobra with vision_backbone_id={name!r} is not read; known are {', '.join(TOWERS)}")
    size, rows = TOWERS[name]
    fit = FITS.get(str(config.get("image_resize_strategy")), "crop")
    return tuple(
        EncoderConfig(name=timm, layer=-2, image_size=size, fit=fit, network={"img_size": size}, **numbers)
        for timm, numbers in rows
    )


def language(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The sizes of a Mamba from the shapes of its tensors.

    Args:
        shapes: by our names, "language.backbone.layers.0.mixer.A_log" and so on.
    Raises:
        ModelError: they are of another network.
    """
    first = "language.backbone.layers.0.mixer."
    try:
        rows, width = shapes["language.backbone.embedding.weight"]
        inner, states = shapes[f"{first}A_log"]
        rank, kernel = shapes[f"{first}dt_proj.weight"][1], shapes[f"{first}conv1d.weight"][2]
    except KeyError as error:
        raise ModelError(f"the language model of this Cobra is no Mamba: it has no {error}") from error
    layers = {name.split(".")[3] for name in shapes if name.startswith("language.backbone.layers.")}
    return {
        "model": "mamba_lm", "vocab_size": rows, "vocab_multiple": 1, "d_model": width, "n_layer": len(layers),
        "d_state": states, "d_conv": kernel, "expand": inner / width, "dt_rank": rank, "padded_logits": True,
        "conv_bias": f"{first}conv1d.bias" in shapes, "bias": f"{first}in_proj.bias" in shapes,
        "norm": "layer" if "language.backbone.norm_f.bias" in shapes else "rms",
    }  # fmt: skip


ORIGINALS = {
    "cobra": Original(licence="MIT; trained on data that are not for commercial use", build=build, rules=RULES)
}
