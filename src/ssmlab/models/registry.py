"""The models by name: one table for every kind, a family a line, and `create_model`.

Nothing heavy is imported before a model is built, so that a command can list the names at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ssmlab.core.errors import ModelError
from ssmlab.core.text import did_you_mean
from ssmlab.models.entry import FOLDERS, KINDS, TIMM, Family, ModelEntry, Preset

if TYPE_CHECKING:
    from ssmlab.models.rules import Original


def _sizes(name: str, title: str, sizes: tuple[str, ...] = ()) -> dict[str, str]:
    """Titles of a language family's models: of any size, of the published sizes, and of the tests' size."""
    published = {f"{name}_{size}": f"{title}, {size}" for size in sizes}
    return {name: f"{title}, of any size", **published, f"{name}_test": f"{title}, small, for tests"}


def _arms(name: str, title: str) -> dict[str, str]:
    """Titles of a translation family's models."""
    sizes = {f"{name}_{size}": f"{title}, {size}" for size in ("tiny", "small", "base", "paper")}
    return {name: f"{title}, of any size", **sizes, f"{name}_test": f"{title}, small, for tests"}


_SIZES = ("130m", "370m", "790m", "1.4b", "2.8b")
_STATE_SPACES, _HUGGING_FACE = "state_spaces", "hugging_face"
FAMILIES = (
    Family(
        "resnet_mamba",
        "vision",
        {
            "resnet18": "ResNet-18",
            "resnet18_mamba": "ResNet-18 + Mamba",
            "resnet18_mamba_pooled": "ResNet-18 + Mamba over one pooled token",
            "resnet50": "ResNet-50",
            "resnet50_mamba": "ResNet-50 + Mamba",
            "resnet_test": "a small ResNet for tests",
            "resnet_mamba_test": "a small ResNet + Mamba for tests",
        },
    ),
    Family(
        "vmamba",
        "vision",
        {
            "vmamba_tiny": "VMamba-T, s1l8",
            "vmamba_small": "VMamba-S, s2l15",
            "vmamba_base": "VMamba-B, s2l15",
            "vmamba_tiny_s1l8": "VMamba-T, s1l8",
            "vmamba_tiny_s2l5": "VMamba-T, s2l5",
            "vmamba_tiny_v0": "VMamba-T, first release",
            "vmamba_small_s1l20": "VMamba-S, s1l20",
            "vmamba_small_s2l15": "VMamba-S, s2l15",
            "vmamba_small_v0": "VMamba-S, first release",
            "vmamba_base_s1l20": "VMamba-B, s1l20",
            "vmamba_base_s2l15": "VMamba-B, s2l15",
            "vmamba_base_v0": "VMamba-B, first release",
            "vmamba_test": "a small VMamba for tests",
        },
        originals={"vmamba": "vmamba"},
    ),
    Family(
        "medmamba",
        "vision",
        {
            "medmamba_tiny": "MedMamba-T",
            "medmamba_small": "MedMamba-S",
            "medmamba_base": "MedMamba-B",
            "medmamba_test": "a small MedMamba for tests",
        },
        originals={"medmamba": "medmamba"},
    ),
    Family(
        "mambavision",
        "vision",
        {
            "mambavision_tiny": "MambaVision-T",
            "mambavision_tiny2": "MambaVision-T2",
            "mambavision_small": "MambaVision-S",
            "mambavision_base": "MambaVision-B",
            "mambavision_large": "MambaVision-L",
            "mambavision_large2": "MambaVision-L2",
            "mambavision_base_21k": "MambaVision-B, weights from ImageNet-21K",
            "mambavision_large_21k": "MambaVision-L, weights from ImageNet-21K",
            "mambavision_large2_512_21k": "MambaVision-L2 at 512 x 512, weights from ImageNet-21K",
            "mambavision_large3_256_21k": "MambaVision-L3 at 256 x 256, weights from ImageNet-21K",
            "mambavision_large3_512_21k": "MambaVision-L3 at 512 x 512, weights from ImageNet-21K",
            "mambavision_test": "a small MambaVision for tests",
        },
        originals={"mambavision": "mambavision"},
    ),
    Family(
        "vim",
        "vision",
        {
            "vim_tiny": "Vim-Ti",
            "vim_small": "Vim-S",
            "vim_base": "Vim-B",
            "vim_tiny_stride8": "Vim-Ti+, patches every 8 pixels",
            "vim_small_stride8": "Vim-S+, patches every 8 pixels",
            "vim_test": "a small Vim for tests",
        },
        originals={"vim": "vim"},
    ),
    Family(
        "mamba_lm",
        "language",
        _sizes("mamba_lm", "Mamba", _SIZES),
        originals={"mamba1": _STATE_SPACES, "mamba1_hf": _HUGGING_FACE, "falcon_mamba": _HUGGING_FACE},
    ),
    Family(
        "mamba2_lm",
        "language",
        {
            **_sizes("mamba2_lm", "Mamba-2", ("130m", "370m", "780m", "1.3b", "2.7b")),
            "mamba2_attention_lm_2.7b": "Mamba-2 with six layers of attention, 2.7b",
            "mamba2_attention_lm_test": "Mamba-2 with attention, small, for tests",
        },
        file="mamba_lm",
        originals={"mamba2": _STATE_SPACES, "mamba2_hf": _HUGGING_FACE},
    ),
    Family(
        "mamba3_lm",
        "language",
        _sizes("mamba3_lm", "Mamba-3") | {"mamba3_mimo_lm_test": "Mamba-3 with two inputs a head, small, for tests"},
        originals={"mamba3": _STATE_SPACES},
    ),
    Family("s4d_lm", "language", _sizes("s4d_lm", "S4D", _SIZES)),
    Family("transformer_lm", "language", _sizes("transformer_lm", "Transformer", _SIZES)),
    Family(
        "umamba",
        "segmentation",
        {
            "umamba_bot": "U-Mamba, Mamba at the bottleneck",
            "umamba_enc": "U-Mamba, Mamba in the encoder",
            "residual_unet": "residual U-Net",
        },
        originals={"umamba": "umamba"},
    ),
    Family(
        "resenc_unet",
        "segmentation",
        {"resenc_unet": "nnU-Net's residual-encoder U-Net"},
        originals={"resenc_unet": "resenc_unet"},
    ),
    Family(
        "translation_transformer",
        "translation",
        _arms("translation_transformer", "Transformer as Marian's"),
        originals={"marian": "marian"},
    ),
    Family(
        "translation_mamba_encdec",
        "translation",
        _arms("translation_mamba_encdec", "Mamba encoder-decoder"),
        file="mamba_encdec",
    ),
    *(
        Family(name, "translation", _arms(name, title), file="decoder_only")
        for name, title in {
            "translation_mamba": "Mamba, decoder only",
            "translation_mamba2": "Mamba-2, decoder only",
            "translation_decoder": "Transformer, decoder only",
            "translation_hybrid": "Mamba + two attentions, decoder only",
        }.items()
    ),
    Family(
        "llava_mamba",
        "vision_language",
        {
            "llava_mamba": "LLaVA with a state space language model, of any parts",
            "llava_mamba_test": "LLaVA with Mamba, small, for tests",
        },
        originals={"llava_hf": "llava", "llava": "llava", "cobra": "cobra"},
    ),
)
MODELS: dict[str, ModelEntry] = {name: entry for family in FAMILIES for name, entry in family.entries().items()}
_ORIGINALS = {name: f"{FOLDERS[family.kind]}.{file}" for family in FAMILIES for name, file in family.originals.items()}
ORIGINALS = tuple(sorted(_ORIGINALS))


def list_models(kind: str | None = None) -> list[str]:
    """The names in the table, of one kind or of all; besides these, `timm/<name>` builds any model of timm.

    Raises:
        ModelError: there is no such kind.
    """
    if kind not in (None, *KINDS):
        raise ModelError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return [name for name, line in MODELS.items() if kind in (None, line.kind)]


def kind_of(name: Any) -> str | None:
    """The kind of the model with a name, `timm/<name>` included; None for what is no name of the table."""
    if not isinstance(name, str):
        return None
    return "vision" if name.startswith(TIMM) else MODELS[name].kind if name in MODELS else None


def describe(name: str, kind: str | None = None) -> str:
    """What a model is, in words: "ResNet-18 + Mamba"; for `timm/<name>` the name.

    Raises:
        ModelError: unknown name, or one of another kind; the closest known ones are in the message.
    """
    return name.removeprefix(TIMM) if name.startswith(TIMM) else entry(name, kind).title


def entry(name: str, kind: str | None = None) -> ModelEntry:
    """The entry of the table for a name.

    Raises:
        ModelError: unknown name, or one of another kind; the closest known ones are in the message.
    """
    if name not in MODELS:
        hint = did_you_mean(name, list_models(kind)) or "; `ssmlab models` lists them, timm/<name> is any model of timm"
        raise ModelError(f"unknown model {name!r}{hint}")
    found = MODELS[name]
    if kind not in (None, found.kind):
        wanted = "model of images" if kind == "vision" else f"{kind} model"
        raise ModelError(f"{name} is a {found.kind} model, a {wanted} is needed; `ssmlab models` lists them")
    return found


def create_model(name: str, **options: Any) -> Any:
    """Build a model by name, with initial weights or published ones.

    Args:
        name: of `list_models()`, or `timm/<name>` for any model of timm.
        options: of a model of images, all optional but num_classes:
            num_classes: size of the output; 0 leaves out the last layer; None, with `pretrained`, takes the weights'.
            image_size: side of the square images; None takes the model's own.
            in_chans: channels of the images.
            pretrained: take the weights that authors publish, from the network where they are not on this machine yet
                (of the backbone, where the whole has none); `models.catalogue` is their table.
            weights: a file instead, .safetensors or .pth: of the whole model as a run saves it, or of its timm
                backbone.
            accept_licence: accept the licence of published weights, where that is needed once.
            and fields of the model's config, for `timm/<name>` arguments that describe its architecture.

            Of a language or translation model: vocab_size, tokens (that of the published one if not given), fields of
            its config, and dropout_branch for `residual_dropout`.

            Of a segmentation network:
            plan: the sizes: a `Plan`, a table of them, or the path of a file that `read_plan` reads.
            num_classes: logits of a position, the background's included.
            in_chans: channels of the images, 3 if not given.
            seed: of the initial weights, which then leaves torch's own generator where it was.

            Of a vision-language model, fields of `LlavaConfig`:
            encoders: names or tables of image encoders. projector: a kind or a table. language: a name or a table.
            template: the form of a conversation.
    Returns:
        The model, with `registry_name` and `config`, which `checkpoints.save_model` writes.
    Raises:
        ModelError: unknown name or option, sizes that make no model, or weights that cannot be had or do not fit.
    """
    from ssmlab.models import create

    if name.startswith(TIMM):
        return create.create_vision(name, None, **options)
    found = entry(name)
    preset: Preset = import_module(f"ssmlab.models.{found.module}").CONFIGS[name]
    if found.kind == "vision":
        return create.create_vision(name, preset, **options)
    builders = {"segmentation": create.build_segmenter, "vision_language": create.build_vision_language}
    return builders.get(found.kind, create.create_language)(name, preset, options)


def original(name: str) -> Original:
    """How weights of an original implementation are read, by its name in `ORIGINALS`.

    Raises:
        ModelError: there is none of that name.
    """
    if name not in _ORIGINALS:
        raise ModelError(f"unknown family {name!r}; there are {', '.join(ORIGINALS)}")
    return import_module(f"ssmlab.models.{_ORIGINALS[name]}").ORIGINALS[name]


def create_language_model(name: str, **options: Any) -> Any:
    """`create_model` for a language model alone.

    Raises:
        ModelError: the name is another kind's, or options that make no model.
    """
    entry(name, "language")
    return create_model(name, **options)


def create_segmenter(name: str, **options: Any) -> Any:
    """`create_model` for a segmentation network alone; `plan` and `num_classes` are required.

    Raises:
        ModelError: the name is another kind's, or sizes that make no network.
    """
    entry(name, "segmentation")
    return create_model(name, **options)
