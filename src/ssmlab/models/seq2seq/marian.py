"""Weights as transformers has them: `MarianMTModel`, among them all of OPUS-MT."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from ssmlab.core.errors import ModelError
from ssmlab.models.fields import read, refuse, write
from ssmlab.models.registry import create_model
from ssmlab.models.rules import Original, Rule

# the original's fields and ours
FIELDS = {
    "vocab_size": "vocab_size",
    "d_model": "d_model",
    "encoder_layers": "n_encoder_layer",
    "decoder_layers": "n_layer",
    "decoder_attention_heads": "heads",
    "encoder_attention_heads": "encoder_heads",
    "decoder_ffn_dim": "d_intermediate",
    "encoder_ffn_dim": "d_encoder_intermediate",
    "activation_function": "activation",
    "scale_embedding": "scale_embedding",
    "tie_word_embeddings": "tie_embeddings",
    "dropout": "residual_dropout",
    "activation_dropout": "dropout_inner",
    "attention_dropout": "dropout_attention",
}
# what the original takes where its configuration is silent
DEFAULTS = {
    "vocab_size": 58101,
    "d_model": 1024,
    "n_encoder_layer": 12,
    "n_layer": 12,
    "heads": 16,
    "encoder_heads": 16,
    "d_intermediate": 4096,
    "d_encoder_intermediate": 4096,
    "activation": "gelu",
    "scale_embedding": False,
    "residual_dropout": 0.1,
}
# what of the original is not in ours, and the value that ours stands for; configurations of old versions name these
FIXED = {
    "share_encoder_decoder_embeddings": True,
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "static_position_embeddings": True,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}
# and the other way round
OURS = {"norm": "layer", "norm_eps": 1e-5, "post_norm": True, "logits_bias": True, "tie_embeddings": True}
OURS |= {"dropout_skip": 0.0}


def build_marian(config: dict[str, Any]) -> nn.Module:
    """Our network for a config of transformers; its dropout of embeddings is that of the branches.

    Raises:
        ModelError: another model, or one whose parts ours does not have, such as two embeddings.
    """
    if config.get("model_type", "marian") != "marian":
        raise ModelError(f"the configuration is of {config['model_type']}, not of marian")
    other = [f"{name}={config[name]!r}" for name, value in FIXED.items() if config.get(name, value) != value]
    if config.get("decoder_vocab_size") not in (None, config.get("vocab_size", DEFAULTS["vocab_size"])):
        other.append(f"decoder_vocab_size={config['decoder_vocab_size']}")
    if other:
        raise ModelError(f"the Marian model has {', '.join(other)}, which our network does not have")
    values = DEFAULTS | read("config", config, FIELDS)
    values["dropout_embedding"] = values["residual_dropout"]
    return create_model("translation_transformer", vocab_multiple=1, padded_logits=True, **values)


def export_marian(config: Any) -> dict[str, Any]:
    """The config of transformers for one of ours, without the marks of its vocabulary.

    Raises:
        ModelError: their class has no name for something in it; all of that is listed.
    """
    refuse("the layout of Hugging Face's Marian", config, OURS)
    if config.dropout_embedding != config.residual_dropout:
        raise ModelError("the layout of Hugging Face's Marian has one dropout for embeddings and branches")
    own = write(config, FIELDS) | {"vocab_size": config.padded_vocab, "decoder_vocab_size": config.padded_vocab}
    own |= {"encoder_attention_heads": config.encoder_heads or config.heads}
    own |= {"encoder_ffn_dim": config.d_encoder_intermediate or config.d_intermediate}
    return {"architectures": ["MarianMTModel"], "model_type": "marian", "is_encoder_decoder": True} | own


def marks(config: dict[str, Any]) -> dict[str, Any]:
    """What preprocess.json of a model of ours says, for a config of transformers: how its translations begin and end.

    Raises:
        ModelError: the config does not say it.
    """
    ends = config.get("eos_token_id", 0)
    found = {
        "separator_id": config.get("decoder_start_token_id", config.get("pad_token_id")),
        "eos": ends[0] if isinstance(ends, list) and len(ends) == 1 else ends,
        "pad": config.get("pad_token_id"),
    }
    wrong = [f"{name}={value!r}" for name, value in found.items() if type(value) is not int]
    if wrong:
        raise ModelError(f"config.json must name one token each for begin, end and padding, got {', '.join(wrong)}")
    banned = [words[0] for words in config.get("bad_words_ids") or [] if isinstance(words, list) and len(words) == 1]
    return {"task": "translate", **found, "suppress": sorted({found["pad"], found["separator_id"], *banned})}


def _row(bias: Tensor) -> Tensor:
    return bias.squeeze(0)


def _column(bias: Tensor) -> Tensor:
    return bias.unsqueeze(0)


# by stack: names in a layer of the original, several where ours are their rows below each other, and ours
STACKS = {"encoder": "backbone.encoder", "decoder": "backbone"}
FEED_FORWARD: dict[tuple[str, ...], str] = {
    ("fc1",): "mlp.block.fc1",
    ("fc2",): "mlp.block.fc2",
    ("final_layer_norm",): "mlp.norm",
}
SELF = tuple(f"self_attn.{part}_proj" for part in "qkv")
LAYERS: dict[str, dict[tuple[str, ...], str]] = {
    "encoder": {
        SELF: "mixer.block.qkv",
        ("self_attn.out_proj",): "mixer.block.proj",
        ("self_attn_layer_norm",): "mixer.norm",
        **FEED_FORWARD,
    },
    "decoder": {
        SELF: "mixer.block.in_proj",
        ("self_attn.out_proj",): "mixer.block.out_proj",
        ("self_attn_layer_norm",): "mixer.norm",
        ("encoder_attn.q_proj",): "cross.block.q_proj",
        ("encoder_attn.k_proj", "encoder_attn.v_proj"): "cross.block.kv_proj",
        ("encoder_attn.out_proj",): "cross.block.out_proj",
        ("encoder_attn_layer_norm",): "cross.norm",
        **FEED_FORWARD,
    },
}
RULES = [
    Rule(r"model\.shared\.weight", "backbone.embedding.weight"),
    Rule(r"model\.(encoder|decoder)\.embed_tokens\.weight", "backbone.embedding.weight", alias=True),
    Rule(r"model\.(encoder|decoder)\.embed_positions\.weight", None),  # computed, for any length
    Rule("final_logits_bias", "lm_head.bias", _row),
    *(
        Rule(
            rf"model\.{side}\.layers\.(\d+)\.{re.escape(name)}\.(\w+)",
            rf"{STACKS[side]}.layers.\1.{own}.\2",
            join=(i, len(names)),
        )
        for side, table in LAYERS.items()
        for names, own in table.items()
        for i, name in enumerate(names)
    ),
]
INVERSE = [
    Rule(r"backbone\.embedding\.weight", "model.shared.weight"),
    Rule(r"lm_head\.bias", "final_logits_bias", _column),
    *(
        Rule(
            rf"{re.escape(STACKS[side])}\.layers\.(\d+)\.{re.escape(own)}\.(\w+)",
            tuple(rf"model.{side}.layers.\1.{name}.\2" for name in names),
        )
        for side, table in LAYERS.items()
        for names, own in table.items()
    ),
]
ORIGINALS = {
    "marian": Original(licence="CC-BY-4.0", build=build_marian, rules=RULES, export=export_marian, inverse=INVERSE)
}
