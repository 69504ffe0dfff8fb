"""The card of a model: its parameters, operations and modules, counted on the meta device.

There a model of any size takes no memory, and nothing is computed or downloaded. torch is imported when a card is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssmlab.core.errors import ModelError
from ssmlab.core.formats import large, percent, size
from ssmlab.data.contents import count
from ssmlab.models.catalogue import find_weights
from ssmlab.models.registry import MODELS, create_model, describe, kind_of, list_models
from ssmlab.models.segmentation.plans import Plan, propose_plan, read_plan
from ssmlab.studies.compare.published import published
from ssmlab.studies.options import CardOptions

CLASSES = 1000  # of a vision model, in the list and alone: ImageNet-1K's, as authors count
TEXTS = ("language", "translation", "vision_language")  # kinds without classes
PAIR = 20  # tokens of the sentences that a translation model is counted for
# What a plan is proposed for where none is given: the patches of nnU-Net's plans for large images and volumes.
USUAL_SIZE = {2: (512, 512), 3: (128, 128, 128)}


@dataclass(frozen=True)
class Part:
    """A module, equal neighbours of a list as one, or a parameter of a module's own.

    name, called: where it is, and its class with its sizes. share: its parameters, in words; "" of a parameter.
    parts: what it consists of.
    """

    name: str
    called: str
    share: str = ""
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a model is in one line, without its name; its costs and where its weights are, in lines; and its parts."""

    summary: str
    lines: tuple[str, ...]
    parts: tuple[Part, ...]


def model_card(name: str, options: CardOptions | None = None, **given: Any) -> ModelCard:
    """The card of a model of the table or of timm/<name>.

    Args:
        options: the fields of `CardOptions` may also be given one by one.
    Raises:
        ModelError: unknown name, or a size that the model does not take; before torch is imported, where that can be.
    """
    options = CardOptions.of(options, given, "model_card")
    classes, image_size, plan, depth = options.classes, options.image_size, options.plan, options.depth
    title, kind = describe(name), kind_of(name)
    if kind == "segmentation" and image_size:
        raise ModelError(f"--image-size: the plan says the size of {name}'s patches; give --plan FILE")
    if kind != "segmentation" and plan:
        raise ModelError(f"--plan: {name} is built from no plan; {', '.join(list_models('segmentation'))} are")
    if kind == "segmentation":
        sizes = usual_plan(options.dims) if plan is None else read_plan(plan)
        model = without_weights(name, classes or 2, plan=sizes)
        of = plan or f"the plan that is proposed for {' x '.join(map(str, sizes.patch_size))}"
        summary = f"{title}, {sizes.dims}-D: {parameters(model):,} parameters by {of}"
        channels = model.config.in_chans
        costs = _map_costs(model, (channels, *sizes.patch_size), "a patch", f", {count(channels, 'channel')}")
    else:
        classes = classes or CLASSES
        model = without_weights(name, classes, image_size)
        tokens = getattr(model, "num_tokens", None)
        of = "" if kind in TEXTS else f" with {classes:,} class{'' if classes == 1 else 'es'}"
        summary = f"{title}: {parameters(model):,} parameters{of}" + (f", {tokens} tokens" if tokens else "")
        if kind == "language":
            costs = _language_costs(model)
        elif kind == "translation":
            costs = _translation_costs(model)
        elif kind == "vision_language":
            side = model.config.encoders[0].image_size
            costs = [
                f"an image of {side} x {side}: {count(model.image_tokens, 'token')}",
                *_language_costs(model.language),
            ]
        else:
            channels, *own = model.default_cfg["input_size"]
            side = image_size or own[-1]
            costs = _map_costs(model, (channels, side, side), "an image")
    return ModelCard(summary=summary, lines=(*costs, *known_lines(name)), parts=_parts(model, parameters(model), depth))


def total_parameters(name: str) -> str:
    """The parameters of a model, in words: of images with 1000 classes, of segmentation networks in 2-D and 3-D."""
    if kind_of(name) == "segmentation":
        return " and ".join(large(parameters(without_weights(name, 2, plan=usual_plan(dims)))) for dims in USUAL_SIZE)
    return large(parameters(without_weights(name, CLASSES)))


def without_weights(name: str, classes: int, image_size: int | None = None, plan: Plan | None = None) -> Any:
    """The model without memory for its weights, in evaluation mode; for colour images, or volumes of one channel."""
    from ssmlab.models.meta import on_meta

    options: dict[str, Any] = {"num_classes": classes, "image_size": image_size}
    if plan is not None:
        options = {"num_classes": classes, "plan": plan, "in_chans": 3 if plan.dims == 2 else 1}
    elif kind_of(name) in TEXTS:
        options = {}
    with on_meta():
        return create_model(name, **options).eval()


def usual_plan(dims: int) -> Plan:
    """The plan for large images or volumes."""
    return propose_plan(USUAL_SIZE[dims], memory_bytes=2**40, batch_size=2)


def known_lines(name: str) -> list[str]:
    """What a model's authors print about it, where its published weights are, and what may be done with these."""
    lines = []
    if (printed := published(name)) is not None:
        numbers = [
            f"{percent(printed.top1)} top-1 on ImageNet-1K" if printed.top1 else "",
            f"{large(printed.parameters)} parameters" if printed.parameters else "",
            f"{large(printed.macs)} MAC, printed as FLOPs" if printed.macs else "",
        ]
        side = printed.image_size
        lines.append(f"published: {', '.join(filter(None, numbers))} at {side} x {side} ({printed.source})")
    if (row := find_weights(name)) is not None:
        held = f", {row.size}" if row.size else ""
        agree = "; to be accepted once, with --accept-licence" if row.licence.accept else ""
        lines.append(f"weights: {row.address}{held} ({row.source})")
        lines.append(f"licence of the weights: {row.licence.title}{agree}")
    return lines


def group_of(name: str) -> str:
    """The heading under which a model is listed; baselines are what state space models are compared with."""
    entry = MODELS[name]
    if entry.family == "transformer_lm" or name in ("resnet18", "resnet50", "resnet_test"):
        return "Baselines"
    return entry.kind.replace("_", "-").capitalize()


def parameters(model: Any) -> int:
    """The number of a model's parameters."""
    return sum(p.numel() for p in model.parameters())


def _map_costs(model: Any, shape: tuple[int, ...], what: str, more: str = "") -> list[str]:
    """Operations for one input of this shape (c, *spatial)."""
    import torch

    from ssmlab.profiling import count_flops

    pixels = " x ".join(map(str, shape[1:]))
    try:
        counts = count_flops(model, torch.zeros(1, *shape, device="meta"))
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"no images of {pixels} pixels go through it: {str(error).splitlines()[0]}") from error
    parts = ", ".join(f"{name} {large(macs)}" for name, macs in counts.parts.items() if macs)
    lines = [f"{what} of {pixels}{more}: {large(counts.macs)} MAC = {large(counts.flops)} FLOP ({parts})"]
    if counts.scan_macs:
        macs, flops = counts.macs - counts.scan_macs, counts.flops - counts.scan_flops
        lines.append(f"without the scan: {large(macs)} MAC = {large(flops)} FLOP")
    return lines


def _language_costs(model: Any) -> list[str]:
    from ssmlab.profiling.language import PROMPT, token_costs

    costs = token_costs(model)
    prompt, scan = costs.prompt.flops / PROMPT, costs.step.scan_flops
    state = f"state of a sequence: {size(costs.state_bytes)} in float32"
    if costs.growth_bytes:
        state += f" after two tokens, {size(costs.growth_bytes)} more with each"
    else:
        state += ", however long it is"
    share = f", of which the scan {large(scan)}" if scan else ""
    return [
        state,
        f"a token written: {large(costs.step.flops)} FLOP{share}",
        f"a token of a prompt of {PROMPT:,}: {large(prompt)} FLOP",
    ]


def _translation_costs(model: Any) -> list[str]:
    from ssmlab.profiling.language import pair_costs

    costs = pair_costs(model, PAIR, PAIR)
    state = f"state of a sentence of {PAIR} tokens: {size(costs.state_bytes)} in float32"
    return [
        f"without embeddings: {costs.parameters - costs.embeddings:,} parameters",
        f"a pair of {PAIR} + {PAIR} tokens: {large(costs.counts.macs)} MAC = {large(costs.counts.flops)} FLOP",
        f"a token written: {large(costs.step.flops)} FLOP",
        state + (f", {size(costs.growth_bytes)} more with each token" if costs.growth_bytes else ""),
    ]


def _parts(module: Any, total: int, depth: int) -> tuple[Part, ...]:
    """A part for every child and every parameter of the module's own."""
    from torch import nn

    children = list(module.named_children())
    own = list(module.named_parameters(recurse=False)) if children else []
    found = [Part(name, _shape(parameter)) for name, parameter in own]
    runs: list[tuple[list[str], Any, str]] = []  # neighbours of a list that print alike together, as torch prints them
    for name, child in children:
        text = repr(child)
        if runs and isinstance(module, (nn.ModuleList, nn.Sequential)) and runs[-1][2] == text:
            runs[-1][0].append(name)
        else:
            runs.append(([name], child, text))
    for names, child, _ in runs:
        number, several = parameters(child), len(names) > 1
        share = f"{number:,}{' each' if several else ''} ({len(names) * number / max(total, 1):.1%})"
        name = f"{names[0]} to {names[-1]}, {len(names)} ×" if several else names[0]
        sizes = child.extra_repr()
        if not sizes and not any(True for _ in child.children()):  # those of parameters where it says none
            sizes = ", ".join(f"{own} {_shape(parameter)}" for own, parameter in child.named_parameters(recurse=False))
        called = f"{type(child).__name__}({sizes})" if sizes else type(child).__name__
        found.append(Part(name, called, share, _parts(child, total, depth - 1) if depth > 1 else ()))
    return tuple(found)


def _shape(parameter: Any) -> str:
    return "(" + ", ".join(map(str, parameter.shape)) + ")"
