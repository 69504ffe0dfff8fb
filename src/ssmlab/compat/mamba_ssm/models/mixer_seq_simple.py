"""Language models of Mamba, Mamba-2 and Mamba-3 layers, attention and gated layers, by the original's signatures."""

import json
import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial, wraps
from pathlib import Path

import torch
from torch import Tensor, nn

from ssmlab.compat.mamba_ssm.models.config_mamba import MambaConfig
from ssmlab.compat.mamba_ssm.modules.block import Block
from ssmlab.compat.mamba_ssm.modules.mamba2 import Mamba2
from ssmlab.compat.mamba_ssm.modules.mamba3 import Mamba3
from ssmlab.compat.mamba_ssm.modules.mamba_simple import Mamba
from ssmlab.compat.mamba_ssm.modules.mha import MHA
from ssmlab.compat.mamba_ssm.modules.mlp import GatedMLP
from ssmlab.compat.mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn
from ssmlab.compat.mamba_ssm.utils.generation import GenerationMixin
from ssmlab.compat.mamba_ssm.utils.hf import load_config_hf, load_state_dict_hf
from ssmlab.core.errors import UserError

__all__ = [
    "MHA",
    "Block",
    "GatedMLP",
    "GenerationMixin",
    "Mamba",
    "Mamba2",
    "Mamba3",
    "MambaConfig",
    "MambaLMHeadModel",
    "MixerModel",
    "RMSNorm",
    "_init_weights",
    "create_block",
    "layer_norm_fn",
    "load_config_hf",
    "load_state_dict_hf",
    "rms_norm_fn",
]  # fmt: skip
LAYERS = {"Mamba1": Mamba, "Mamba2": Mamba2, "Mamba3": Mamba3}


def _also_as_before(before: str, place: int) -> Callable:
    """Take the positional arguments of mamba_ssm 1.x too, whose names are `before`.

    They are told apart by argument `place`: a dictionary or None there is 1.x's ssm_cfg, where 2.x has a number.
    """

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def called(*arguments, **named):
            if len(arguments) > place and (arguments[place] is None or isinstance(arguments[place], dict)):
                named |= dict(zip(before.split(), arguments, strict=False))
                arguments = ()
            return function(*arguments, **named)

        return called

    return decorate


_REST = "norm_epsilon rms_norm {}residual_in_fp32 fused_add_norm layer_idx device dtype"


@_also_as_before(f"d_model ssm_cfg {_REST.format('')}", 1)
def create_block(
    d_model, d_intermediate=0, ssm_cfg=None, attn_layer_idx=None, attn_cfg=None, norm_epsilon=1e-5, rms_norm=False,
    residual_in_fp32=False, fused_add_norm=False, layer_idx=None, device=None, dtype=None,
) -> Block:  # fmt: skip
    """The block of layer `layer_idx`; positional arguments may be those of 1.x, without `d_intermediate`.

    Args:
        d_intermediate: channels of a gated layer after the mixer; 0 leaves it out.
        ssm_cfg: arguments of the mixer, and "layer": "Mamba1", "Mamba2" or "Mamba3".
        attn_layer_idx: layers with attention, whose arguments are `attn_cfg`.
    """
    factory = {"device": device, "dtype": dtype}
    if layer_idx in (attn_layer_idx or ()):
        mixer_cls = partial(MHA, layer_idx=layer_idx, **(attn_cfg or {}), **factory)
    else:
        options = dict(ssm_cfg or {})
        layer = options.pop("layer", "Mamba1")
        if layer not in LAYERS:
            raise UserError(f"create_block: the layer of ssm_cfg must be one of {', '.join(LAYERS)}, got {layer!r}")
        mixer_cls = partial(LAYERS[layer], layer_idx=layer_idx, **options, **factory)
    mlp_cls: Callable = nn.Identity
    if d_intermediate != 0:
        mlp_cls = partial(GatedMLP, hidden_features=d_intermediate, out_features=d_model, **factory)
    norm_cls = partial(RMSNorm if rms_norm else nn.LayerNorm, eps=norm_epsilon, **factory)
    block = Block(
        d_model, mixer_cls, mlp_cls, norm_cls=norm_cls, fused_add_norm=fused_add_norm, residual_in_fp32=residual_in_fp32
    )
    block.layer_idx = layer_idx
    return block


def _init_weights(
    module, n_layer, initializer_range=0.02, rescale_prenorm_residual=True, n_residuals_per_layer=1
):  # fmt: skip
    """For `nn.Module.apply`: biases zero but for those marked `_no_reinit`, embeddings normal, and the projections back
    to the residual stream uniform, divided by the root of how many add up in it."""
    if isinstance(module, nn.Linear):
        if module.bias is not None and not getattr(module.bias, "_no_reinit", False):
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=initializer_range)
    if rescale_prenorm_residual:
        for name, parameter in module.named_parameters():
            if name in ("out_proj.weight", "fc2.weight"):
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
                parameter.data /= math.sqrt(n_residuals_per_layer * n_layer)


class MixerModel(nn.Module):
    """Embedding, blocks and a last norm; arguments as of `create_block` and `MambaConfig`.

    Args:
        initializer_cfg: arguments of `_init_weights`.
    """

    @_also_as_before(
        "self d_model n_layer vocab_size ssm_cfg norm_epsilon rms_norm initializer_cfg fused_add_norm residual_in_fp32 "
        "device dtype", 4,
    )  # fmt: skip
    def __init__(
        self, d_model, n_layer, d_intermediate=0, vocab_size=None, ssm_cfg=None, attn_layer_idx=None, attn_cfg=None,
        norm_epsilon=1e-5, rms_norm=False, initializer_cfg=None, fused_add_norm=False, residual_in_fp32=False,
        device=None, dtype=None,
    ):  # fmt: skip
        super().__init__()
        if vocab_size is None:  # three positional arguments of 1.x
            d_intermediate, vocab_size = 0, d_intermediate
        factory = {"device": device, "dtype": dtype}
        self.residual_in_fp32, self.fused_add_norm = residual_in_fp32, fused_add_norm
        self.embedding = nn.Embedding(vocab_size, d_model, **factory)
        self.layers = nn.ModuleList(
            create_block(
                d_model, d_intermediate, ssm_cfg, attn_layer_idx, attn_cfg, norm_epsilon, rms_norm, residual_in_fp32,
                fused_add_norm, i, **factory,
            )
            for i in range(n_layer)
        )  # fmt: skip
        self.norm_f = (RMSNorm if rms_norm else nn.LayerNorm)(d_model, eps=norm_epsilon, **factory)
        residuals = 1 if d_intermediate == 0 else 2
        options = {"n_residuals_per_layer": residuals, **(initializer_cfg or {})}
        self.apply(partial(_init_weights, n_layer=n_layer, **options))

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None, **kwargs):
        """States of zeros for every layer, by its number."""
        layers = enumerate(self.layers)
        return {i: layer.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **kwargs) for i, layer in layers}

    def forward(self, input_ids: Tensor, inference_params=None, **mixer_kwargs) -> Tensor:
        """input_ids (b, l) -> (b, l, d_model)."""
        hidden_states, residual = self.embedding(input_ids), None
        for layer in self.layers:
            hidden_states, residual = layer(hidden_states, residual, inference_params=inference_params, **mixer_kwargs)
        norm = self.norm_f
        if not self.fused_add_norm:
            residual = hidden_states if residual is None else hidden_states + residual
            return norm(residual.to(norm.weight.dtype))
        return layer_norm_fn(
            hidden_states, norm.weight, norm.bias, residual=residual, eps=norm.eps,
            residual_in_fp32=self.residual_in_fp32, is_rms_norm=isinstance(norm, RMSNorm),
        )  # fmt: skip


CausalLMOutput = namedtuple("CausalLMOutput", ["logits"])


class MambaLMHeadModel(nn.Module, GenerationMixin):
    """`MixerModel` with a head over the vocabulary, which is the embedding where `tie_embeddings`."""

    def __init__(self, config: MambaConfig, initializer_cfg=None, device=None, dtype=None):
        super().__init__()
        self.config = config
        multiple, names = config.pad_vocab_size_multiple, {f.name for f in fields(MambaConfig)}
        vocabulary = -(-config.vocab_size // multiple) * multiple
        sizes = {name: value for name, value in vars(config).items() if name in names}
        for name in ("pad_vocab_size_multiple", "tie_embeddings", "vocab_size"):
            sizes.pop(name)
        factory = {"device": device, "dtype": dtype}
        self.backbone = MixerModel(vocab_size=vocabulary, initializer_cfg=initializer_cfg, **sizes, **factory)
        self.lm_head = nn.Linear(config.d_model, vocabulary, bias=False, **factory)
        self.apply(partial(_init_weights, n_layer=config.n_layer, **(initializer_cfg or {})))
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make the embedding the head's weight, where the configuration says so."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None, **kwargs):
        """States of zeros for every layer, by its number."""
        return self.backbone.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **kwargs)

    def forward(
        self, input_ids: Tensor, position_ids=None, inference_params=None, num_last_tokens=0, **mixer_kwargs
    ):  # fmt: skip
        """input_ids (b, l) -> an object with `logits` (b, l, vocabulary), of the last `num_last_tokens` unless 0.

        `position_ids` is accepted: the layers know where they are.
        """
        hidden_states = self.backbone(input_ids, inference_params=inference_params, **mixer_kwargs)
        if num_last_tokens > 0:
            hidden_states = hidden_states[:, -num_last_tokens:]
        return CausalLMOutput(self.lm_head(hidden_states))

    @classmethod
    def from_pretrained(cls, pretrained_model_name, device=None, dtype=None, **kwargs):
        """The model in a folder of `save_pretrained`'s layout, or of a repository on Hugging Face."""
        found = load_config_hf(pretrained_model_name)
        unknown = sorted(set(found) - {f.name for f in fields(MambaConfig)})
        if unknown or not {"d_model", "n_layer"} <= set(found):
            what = f"has the unknown {unknown[0]!r}" if unknown else "has no d_model or no n_layer"
            raise UserError(
                f"config.json of {pretrained_model_name} {what}, so it is not of mamba_ssm's layout; open models of "
                "Hugging Face's with transformers"
            )
        model = cls(MambaConfig(**found), device=device, dtype=dtype, **kwargs)
        state = load_state_dict_hf(pretrained_model_name, device=device, dtype=dtype)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()[1:4]]
            raise UserError(
                f"the weights of {pretrained_model_name} do not fit its config.json: {' '.join(lines)}"
            ) from error
        return model

    def save_pretrained(self, save_directory) -> None:
        """Write pytorch_model.bin and config.json."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=4), "utf-8")
