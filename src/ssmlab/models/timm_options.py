"""The options of timm's networks that a recipe or a config.json may set: what describes the architecture, nothing else.

timm passes every keyword on, and some of them name files to read or places to download from; a file that says what a
network looks like must not decide that. They are a list of what is allowed, since timm may add others at any time.
"""

from __future__ import annotations

from typing import Any

from ssmlab.core.errors import ModelError
from ssmlab.core.text import did_you_mean

ARCHITECTURE = frozenset((
    "aa_layer", "act_layer", "always_partition", "attn_drop_rate", "attn_head_dim", "attn_head_wh", "avg_down",
    "base_width", "bias", "block_dpr", "cardinality", "channels", "class_token", "conv_bias", "conv_mlp", "depth",
    "depths", "dilation_rates", "dim_head", "dims", "down_kernel", "drop_block_rate", "drop_path_rate",
    "drop_rate", "dynamic_img_pad", "dynamic_img_size", "embed_dim", "embed_dims", "expand_ratio", "fc_norm",
    "final_norm", "fix_stem", "global_pool", "grad_checkpointing", "head_conv_bias", "head_dim",
    "head_hidden_size", "head_init_scale", "head_norm_first", "img_size", "init_values", "kernel_sizes", "layers",
    "ls_init_value", "mlp_ratio", "mlp_ratios", "no_embed_class", "norm_eps", "norm_layer", "num_features",
    "num_heads", "num_reg_tokens", "output_stride", "patch_drop_rate", "patch_norm", "patch_size",
    "pool_include_prefix", "pool_type", "pos_drop_rate", "pos_embed", "pre_norm", "proj_drop_rate", "qk_norm",
    "qkv_bias", "reg_tokens", "replace_stem_pool", "rope_type", "se_ratio", "stage_dims",
    "stem_chs", "stem_size", "stem_stride", "stem_type", "stem_width", "strict_img_size", "swiglu_mlp",
    "token_mixers", "use_abs_pos", "use_conv_stem", "use_pos_emb", "use_rel_pos", "weight_init", "width",
    "widths", "window_ratio", "window_size", "zero_init_last",
))  # fmt: skip


def check_options(name: str, options: dict[str, Any]) -> None:
    """Refuse what is no option of an architecture, or no plain value.

    Raises:
        ModelError: with the nearest names.
    """
    for option, value in options.items():
        if option not in ARCHITECTURE:
            hint = did_you_mean(option, sorted(ARCHITECTURE)) or "; only what describes the architecture is taken"
            raise ModelError(f"{name} cannot be given the option {option!r}{hint}")
        if not _is_plain(value):
            raise ModelError(f"{name}: {option} must be a number, a text or a list of them, got {type(value).__name__}")


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
