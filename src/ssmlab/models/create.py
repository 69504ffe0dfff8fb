"""Networks from presets of the table: one function a kind. `registry.create_model` calls them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import nn, random

from ssmlab.core.errors import ModelError
from ssmlab.core.text import did_you_mean
from ssmlab.models.catalogue import CLASSES, find_weights
from ssmlab.models.download import weights_file
from ssmlab.models.entry import TIMM, Preset
from ssmlab.models.meta import on_meta
from ssmlab.models.segmentation.plans import Plan, plan_from, read_plan
from ssmlab.models.timm_options import check_options
from ssmlab.models.weights import fit, read_state_dict
from ssmlab.nn.factorized import factorize_like_


@dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """What a model of timm was built with."""

    num_classes: int
    image_size: int | None = None
    in_chans: int = 3
    options: dict[str, Any] = field(default_factory=dict)


def create_vision(
    name: str,
    preset: Preset | None,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    in_chans: int = 3,
    pretrained: bool = False,
    weights: str | Path | None = None,
    accept_licence: bool = False,
    **options: Any,
) -> nn.Module:
    """A model of images; for the arguments and errors see `registry.create_model`.

    Args:
        preset: None for `timm/<name>`.
    """
    if pretrained and weights is not None:
        raise ModelError("pretrained and weights both say where weights come from; give one of them")
    path = None if weights is None else Path(weights)
    exact = num_classes is None  # the weights' own classifier, which must then be of that size
    if num_classes is None:
        num_classes = _published_classes(name, pretrained)
    if preset is None:
        check_options(name, options)
        _check_classes(name, num_classes)
        config = TimmConfig(num_classes=num_classes, image_size=image_size, in_chans=in_chans, options=options)
        model: Any = _create_timm(name.removeprefix(TIMM), config, pretrained, path)
        model.config = config
        return _named(model, name)
    _check_known(name, options, [f.name for f in fields(preset.config)])
    values = preset.values | options | {"num_classes": num_classes, "in_chans": in_chans}
    if image_size is not None:
        values["image_size"] = image_size
    try:
        config = preset.config(**values)
        _check_classes(name, num_classes)
        if not pretrained and path is None:
            return _named(preset.network(config), name)
        with on_meta():  # so that an error of loading is not taken for one of the options
            preset.network(config)
    except TypeError as error:  # what a value of a wrong kind leads to
        raise ModelError(f"{name} has options that make no model ({error}); got {options}") from error
    if path is not None:
        return _named(_with_weights(preset.network, config, path), name)
    if find_weights(name) is None:  # of the backbone, if any
        return _named(preset.network(config, pretrained=True), name)
    file = weights_file(name, accept_licence=accept_licence)
    model = preset.network(config)
    model.load(file, exact=exact)
    return _named(model, name)


def create_language(name: str, preset: Preset, options: dict[str, Any]) -> nn.Module:
    """A model over tokens; `options` are fields of its config, `vocab_size` without rows that only fill up."""
    _check_known(name, options, [*(f.name for f in fields(preset.config)), "dropout_branch"])
    if "dropout_branch" in options:
        options = {"residual_dropout": options["dropout_branch"]} | options
        if options.pop("dropout_branch") != options["residual_dropout"]:
            raise ModelError(f"{name}: dropout_branch and residual_dropout are one place; give one of them")
    options = {option: value for option, value in options.items() if (option, value) != ("vocab_size", None)}
    if "vocab_size" in options:
        options = {"padded_logits": False} | options
    return _named(preset.network(preset.config(**preset.values | options)), name)


def build_vision_language(name: str, preset: Preset, options: dict[str, Any]) -> nn.Module:
    """A vision-language model; `options` are fields of its config."""
    _check_known(name, options, [f.name for f in fields(preset.config)])
    return _named(preset.network(preset.config(**preset.values | options)), name)


def build_segmenter(name: str, preset: Preset, options: dict[str, Any]) -> nn.Module:
    """A segmentation network, from a plan."""
    _check_known(name, options, ["plan", "num_classes", "in_chans", "seed"])
    missing = [option for option in ("plan", "num_classes") if option not in options]
    if missing:
        raise ModelError(f"{name} needs {' and '.join(missing)}; `ssmlab plan` writes a plan for your images")
    values = {"in_chans": 3} | options
    plan, seed = values["plan"], values.pop("seed", None)
    if not isinstance(plan, Plan):
        values["plan"] = read_plan(plan) if isinstance(plan, str | Path) else plan_from(plan)
    config = preset.config(**values | preset.values)
    with random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            random.manual_seed(seed)
        return _named(preset.network(config), name)


def _named(model: Any, name: str) -> nn.Module:
    model.registry_name = name
    return model


def _check_known(name: str, options: dict[str, Any], known: Sequence[str]) -> None:
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known) or f"; there are {', '.join(known)}"
            raise ModelError(f"{name} has no option {option!r}{hint}")


def _published_classes(name: str, pretrained: bool) -> int:
    """The classes of published weights."""
    if pretrained and name.startswith(TIMM):
        import timm

        if (published := timm.get_pretrained_cfg(name.removeprefix(TIMM))) is not None:
            return published.num_classes
    row = find_weights(name) if pretrained else None
    if row is None:
        raise ModelError(f"num_classes is missing; give it, e.g. create_model({name!r}, num_classes=10)")
    return CLASSES[row.classes]


def _check_classes(name: str, num_classes: int) -> None:
    if type(num_classes) is not int:
        raise ModelError(f"{name}: num_classes must be a whole number, got {num_classes!r}")


def _with_weights(network: Any, config: Any, weights: Path) -> nn.Module:
    """Weights may be the whole model's, whose names begin with its parts, or the timm network's inside it."""
    about = weights.parent / "config.json"  # of a trained model, where it may list factorised layers
    ranks = json.loads(about.read_text("utf-8")).get("factorized") if about.is_file() else None
    state = read_state_dict(weights)
    if ranks:
        model = factorize_like_(network(config), ranks)
    elif any(key.startswith("backbone.") for key in state):
        model = network(config)
    else:
        return network(config, backbone_weights=weights)
    fit(model, state, str(weights), replaceable=getattr(model, "classifier_path", "head.classifier"))
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
