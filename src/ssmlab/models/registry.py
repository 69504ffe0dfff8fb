"""The models by name, a table written by hand, and how they are built, saved and loaded.

Nothing heavy is imported before a model is built, so that a command can list the names at once.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmlab.core.errors import ModelError, UserError
from ssmlab.core.text import did_you_mean
from ssmlab.models.timm_options import check_options

if TYPE_CHECKING:
    from torch import nn

TIMM = "timm/"  # any name of timm behind it is a model too


@dataclass(frozen=True)
class ModelEntry:
    """A line of the table: the family, its module under `ssmlab.models`, and what the model is."""

    family: str
    module: str
    title: str


class Preset(NamedTuple):
    """What a family's CONFIGS table holds for a name: the network, its config, and the values that differ from it."""

    network: Any
    config: Any
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """What a model of timm was built with."""

    num_classes: int
    image_size: int | None = None
    in_chans: int = 3
    options: dict[str, Any] = field(default_factory=dict)


_FAMILY = ("resnet_mamba", "resnet_mamba")
_MAMBAVISION, _VIM = ("mambavision", "mambavision"), ("vim", "vim")
MODELS: dict[str, ModelEntry] = {
    "resnet18": ModelEntry(*_FAMILY, "ResNet-18"),
    "resnet18_mamba": ModelEntry(*_FAMILY, "ResNet-18 + Mamba"),
    "resnet18_mamba_pooled": ModelEntry(*_FAMILY, "ResNet-18 + Mamba over one pooled token"),
    "resnet50": ModelEntry(*_FAMILY, "ResNet-50"),
    "resnet50_mamba": ModelEntry(*_FAMILY, "ResNet-50 + Mamba"),
    "resnet_test": ModelEntry(*_FAMILY, "a small ResNet for tests"),
    "resnet_mamba_test": ModelEntry(*_FAMILY, "a small ResNet + Mamba for tests"),
    "vmamba_tiny": ModelEntry("vmamba", "vmamba", "VMamba-T, s1l8"),
    "vmamba_small": ModelEntry("vmamba", "vmamba", "VMamba-S, s2l15"),
    "vmamba_base": ModelEntry("vmamba", "vmamba", "VMamba-B, s2l15"),
    "vmamba_tiny_s1l8": ModelEntry("vmamba", "vmamba", "VMamba-T, s1l8"),
    "vmamba_tiny_s2l5": ModelEntry("vmamba", "vmamba", "VMamba-T, s2l5"),
    "vmamba_tiny_v0": ModelEntry("vmamba", "vmamba", "VMamba-T, first release"),
    "vmamba_small_s1l20": ModelEntry("vmamba", "vmamba", "VMamba-S, s1l20"),
    "vmamba_small_s2l15": ModelEntry("vmamba", "vmamba", "VMamba-S, s2l15"),
    "vmamba_small_v0": ModelEntry("vmamba", "vmamba", "VMamba-S, first release"),
    "vmamba_base_s1l20": ModelEntry("vmamba", "vmamba", "VMamba-B, s1l20"),
    "vmamba_base_s2l15": ModelEntry("vmamba", "vmamba", "VMamba-B, s2l15"),
    "vmamba_base_v0": ModelEntry("vmamba", "vmamba", "VMamba-B, first release"),
    "vmamba_test": ModelEntry("vmamba", "vmamba", "a small VMamba for tests"),
    "medmamba_tiny": ModelEntry("medmamba", "medmamba", "MedMamba-T"),
    "medmamba_small": ModelEntry("medmamba", "medmamba", "MedMamba-S"),
    "medmamba_base": ModelEntry("medmamba", "medmamba", "MedMamba-B"),
    "medmamba_test": ModelEntry("medmamba", "medmamba", "a small MedMamba for tests"),
    "mambavision_tiny": ModelEntry(*_MAMBAVISION, "MambaVision-T"),
    "mambavision_tiny2": ModelEntry(*_MAMBAVISION, "MambaVision-T2"),
    "mambavision_small": ModelEntry(*_MAMBAVISION, "MambaVision-S"),
    "mambavision_base": ModelEntry(*_MAMBAVISION, "MambaVision-B"),
    "mambavision_large": ModelEntry(*_MAMBAVISION, "MambaVision-L"),
    "mambavision_large2": ModelEntry(*_MAMBAVISION, "MambaVision-L2"),
    "mambavision_base_21k": ModelEntry(*_MAMBAVISION, "MambaVision-B, weights from ImageNet-21K"),
    "mambavision_large_21k": ModelEntry(*_MAMBAVISION, "MambaVision-L, weights from ImageNet-21K"),
    "mambavision_large2_512_21k": ModelEntry(*_MAMBAVISION, "MambaVision-L2 at 512 x 512, weights from ImageNet-21K"),
    "mambavision_large3_256_21k": ModelEntry(*_MAMBAVISION, "MambaVision-L3 at 256 x 256, weights from ImageNet-21K"),
    "mambavision_large3_512_21k": ModelEntry(*_MAMBAVISION, "MambaVision-L3 at 512 x 512, weights from ImageNet-21K"),
    "mambavision_test": ModelEntry(*_MAMBAVISION, "a small MambaVision for tests"),
    "vim_tiny": ModelEntry(*_VIM, "Vim-Ti"),
    "vim_small": ModelEntry(*_VIM, "Vim-S"),
    "vim_base": ModelEntry(*_VIM, "Vim-B"),
    "vim_tiny_stride8": ModelEntry(*_VIM, "Vim-Ti+, patches every 8 pixels"),
    "vim_small_stride8": ModelEntry(*_VIM, "Vim-S+, patches every 8 pixels"),
    "vim_test": ModelEntry(*_VIM, "a small Vim for tests"),
}


_OTHERS = {"language": "create_language_model", "segmentation": "create_segmenter"}


def list_models() -> list[str]:
    """The names in the table; besides these, `timm/<name>` builds any model of timm."""
    return list(MODELS)


def describe(name: str) -> str:
    """What a model is, in words: "ResNet-18 + Mamba"; for `timm/<name>` the name.

    Raises:
        ModelError: unknown name; the closest known ones are in the message.
    """
    return name.removeprefix(TIMM) if name.startswith(TIMM) else entry(name).title


def entry(name: str) -> ModelEntry:
    """The line of the table for a name.

    Raises:
        ModelError: unknown name; the closest known ones are in the message.
    """
    if name not in MODELS:
        for kind, maker in _OTHERS.items():
            if name in getattr(import_module(f"ssmlab.models.{kind}.names"), f"{kind.upper()}_MODELS"):
                raise ModelError(f"{name} is a {kind} model, none for images; {maker} of ssmlab.models builds it")
        hint = did_you_mean(name, MODELS) or "; `ssmlab models` lists them, timm/<name> is any model of timm"
        raise ModelError(f"unknown model {name!r}{hint}")
    return MODELS[name]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    in_chans: int = 3,
    pretrained: bool = False,
    weights: str | Path | None = None,
    accept_licence: bool = False,
    **options: Any,
) -> nn.Module:
    """Build a model by name.

    Args:
        name: of `list_models()`, or `timm/<name>` for any model of timm.
        num_classes: size of the output; 0 leaves out the last layer; None, with `pretrained`, takes the weights' own.
        image_size: side of the square images; None takes the model's own.
        in_chans: channels of the images.
        pretrained: take the weights that authors publish, from the network where they are not on this machine yet (of
            the backbone, where the whole has none); `models.catalogue` is their table.
        weights: a file instead, .safetensors or .pth: of the whole model as a run saves it, or of its timm backbone.
        accept_licence: accept the licence of published weights, where that must be said once.
        options: further fields of the model's config, for `timm/<name>` arguments that describe its architecture.
    Returns:
        The model, with `registry_name` and `config`, which `save_model` writes.
    Raises:
        ModelError: unknown name or option, sizes that make no model, or weights that cannot be had or do not fit.
    """
    if pretrained and weights is not None:
        raise ModelError("pretrained and weights both say where weights come from; give one of them")
    path = None if weights is None else Path(weights)
    exact = num_classes is None  # the weights' own classifier, which must then be of that size
    if num_classes is None:
        num_classes = _published_classes(name, pretrained)
    if name.startswith(TIMM):
        check_options(name, options)
        _check_classes(name, num_classes)
        config = TimmConfig(num_classes=num_classes, image_size=image_size, in_chans=in_chans, options=options)
        return _named(_create_timm(name.removeprefix(TIMM), config, pretrained, path), name, config)
    preset = import_module(f"ssmlab.models.vision.{entry(name).module}").CONFIGS[name]
    from ssmlab.models.meta import on_meta

    known = [f.name for f in fields(preset.config)]
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known) or f"; there are {', '.join(known)}"
            raise ModelError(f"{name} has no option {option!r}{hint}")
    values = preset.values | options | {"num_classes": num_classes, "in_chans": in_chans}
    if image_size is not None:
        values["image_size"] = image_size
    try:
        config = preset.config(**values)
        _check_classes(name, num_classes)
        if pretrained or path is not None:  # an error of loading is not one of the options
            with on_meta():
                preset.network(config)
        else:
            return _named(preset.network(config), name)
    except TypeError as error:  # what a value of a wrong kind leads to
        raise ModelError(f"{name} has options that make no model ({error}); got {options}") from error
    if path is not None:
        return _named(_with_weights(preset.network, config, path), name)
    if (file := _published_file(name, accept_licence)) is None:
        return _named(preset.network(config, pretrained=True), name)
    model = preset.network(config)
    model.load(file, exact=exact)
    return _named(model, name)


def _published_file(name: str, accept_licence: bool) -> Path | None:
    """The published weights of a whole network; None where the table has none."""
    from ssmlab.models.catalogue import find_weights
    from ssmlab.models.download import weights_file

    return None if find_weights(name) is None else weights_file(name, accept_licence=accept_licence)


def _published_classes(name: str, pretrained: bool) -> int:
    """What published weights tell apart."""
    from ssmlab.models.catalogue import CLASSES, find_weights

    if pretrained and name.startswith(TIMM):
        import timm

        if (published := timm.get_pretrained_cfg(name.removeprefix(TIMM))) is not None:
            return published.num_classes
    row = find_weights(name) if pretrained else None
    if row is None:
        describe(name)  # a misspelt name is said first
        raise ModelError(f"num_classes is missing; give it, e.g. create_model({name!r}, num_classes=10)")
    return CLASSES[row.classes]


def _check_classes(name: str, num_classes: int) -> None:
    if type(num_classes) is not int:
        raise ModelError(f"{name}: num_classes must be a whole number, got {num_classes!r}")


def _factorized(network, config, weights: Path) -> nn.Module | None:
    """The network of a trained model whose config.json, beside the weights, lists factorised layers; else None."""
    beside = weights.parent / "config.json"
    ranks = json.loads(beside.read_text("utf-8")).get("factorized") if beside.is_file() else None
    if not ranks:
        return None
    from ssmlab.models.weights import fit, read_state_dict
    from ssmlab.nn.factorized import factorize_like_

    model = factorize_like_(network(config), ranks)
    fit(model, read_state_dict(weights), str(weights), replaceable=getattr(model, "classifier_path", "head.classifier"))
    return model


def _with_weights(network, config, weights: Path) -> nn.Module:
    """Weights may be the whole model's, whose names begin with its parts, or the timm network's inside it."""
    from ssmlab.models.weights import fit, read_state_dict

    if (model := _factorized(network, config, weights)) is not None:
        return model
    state = read_state_dict(weights)
    if not any(key.startswith("backbone.") for key in state):
        return network(config, backbone_weights=weights)
    model = network(config)
    fit(model, state, str(weights), replaceable="head.classifier")
    return model


def _create_timm(name: str, config: TimmConfig, pretrained: bool, weights: Path | None) -> nn.Module:
    import timm

    from ssmlab.models.vision.backbones import call_timm, published_timm, timm_with_weights

    options: dict[str, Any] = dict(num_classes=config.num_classes, in_chans=config.in_chans, **config.options)
    published = timm.get_pretrained_cfg(name)
    if config.image_size is not None and published is not None and published.fixed_input_size:
        options["img_size"] = config.image_size  # the others take any size and refuse the argument
    if weights is not None:
        return timm_with_weights(name, weights, **options)
    if pretrained:
        return published_timm(name, **options)
    return call_timm(name, lambda: timm.create_model(name, **options))


def _named(model: Any, name: str, config: Any = None) -> nn.Module:
    model.registry_name = name
    if config is not None:
        model.config = config
    return model


def save_model(model: Any, folder: str | Path, preprocess: dict[str, Any]) -> Path:
    """Write a model of `create_model` so that `load_model` builds it again.

    Every file gets a temporary name first, so that a folder never holds half a file.

    Args:
        folder: made where it is missing; config.json, preprocess.json and model.safetensors are written.
        preprocess: what images go through before the model: image_size, mean, std, classes, channels.
    Raises:
        ModelError: the model was not built by `create_model`, so that nobody could build it again.
    """
    from safetensors.torch import save_file

    from ssmlab.nn.factorized import factorized_ranks

    if not hasattr(model, "registry_name"):
        raise ModelError(f"{type(model).__name__} has no name in the table; build it with create_model to save it")
    if getattr(model, "pooling", "avg") != "avg":
        raise ModelError(
            "a model without pooling is not saved: config.json does not say so; reset_classifier(n, 'avg')"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model": model.registry_name, "config": asdict(model.config)}
    if ranks := factorized_ranks(model):
        config["factorized"] = ranks
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    _replace(folder / "config.json", lambda path: path.write_text(json.dumps(config, indent=2) + "\n", "utf-8"))
    _replace(
        folder / "preprocess.json",
        lambda path: path.write_text(json.dumps(preprocess, indent=2) + "\n", "utf-8"),
    )
    _replace(folder / "model.safetensors", lambda path: save_file(state, path, metadata={"format": "pt"}))
    return folder


def load_model(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model that `save_model` wrote, on the CPU and in evaluation mode, and its preprocessing.

    Raises:
        ModelError: a file is missing or does not fit; all disagreeing keys are listed.
    """
    from ssmlab.models.weights import check_sizes, fit, one_line, read_state_dict
    from ssmlab.nn.factorized import factorize_like_

    folder = Path(folder)
    files = [folder / name for name in ("config.json", "preprocess.json", "model.safetensors")]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelError(
            f"{folder} has no {', '.join(missing)}; give the folder of a trained model, runs/<name>/models/<model>"
        )
    stored, preprocess = (_read_object(file) for file in files[:2])
    name, config = stored.get("model"), stored.get("config")
    if not isinstance(name, str) or not isinstance(config, dict):
        raise ModelError(f"{files[0]} must name a model and its config; copy the folder again")
    try:
        check_sizes(files[0], config, files[2], lambda: _rebuilt(name, dict(config)))
        model = _rebuilt(name, dict(config))
        factorize_like_(model, stored.get("factorized", {}))
    except UserError:
        raise
    except (TypeError, AttributeError, KeyError, ValueError, RuntimeError, MemoryError) as error:
        raise ModelError(f"{files[0]} has values that make no model: {one_line(error)}") from error
    fit(model, read_state_dict(files[2]), str(files[2]))
    return model.eval(), preprocess


def _read_object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise ModelError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} must hold an object, got {type(found).__name__}")
    return found


def _rebuilt(name: str, config: dict[str, Any]) -> nn.Module:
    from ssmlab.models.segmentation.names import SEGMENTATION_MODELS, rebuild_segmenter

    if name in SEGMENTATION_MODELS:
        return rebuild_segmenter(name, config)
    from ssmlab.models.language.names import LANGUAGE_MODELS

    if name in LANGUAGE_MODELS:
        raise ModelError(f"{name} is a language model, which has no classes; `ssmlab generate` writes with it")
    options = config.pop("options", {})
    if not isinstance(options, dict):
        raise ModelError(f"config.json: options must be an object, got {type(options).__name__}")
    asked = sorted({"name", "pretrained", "weights"} & (options.keys() | config.keys()))
    if asked:
        raise ModelError(f"config.json has {', '.join(asked)}: a folder does not decide what is downloaded or read")
    return create_model(name, **(options | config))


def _replace(path: Path, write) -> None:
    """Write a file under a temporary name beside it, then give it its own in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
