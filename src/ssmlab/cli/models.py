"""`ssmlab models`: the models by name, what one is made of, and how closely each family follows its original."""

from pathlib import Path

import typer

# A family's place in the list; baselines are what state space models are compared with.
GROUPS = ("Vision", "Language", "Segmentation", "Baselines")
BASELINES = ("resnet18", "resnet50", "resnet_test")
CLASSES = 1000  # of a vision model, in the list and alone: ImageNet-1K's, as authors count
# What a plan is proposed for where none is given: the patches of nnU-Net's plans for large images and volumes.
USUAL_SIZE = {2: (512, 512), 3: (128, 128, 128)}


def models(
    name: str = typer.Argument(None, help="A model to show; timm/<name> is any model of timm."),
    depth: int = typer.Option(3, min=1, help="Levels of the module tree."),
    classes: int = typer.Option(None, min=1, help="Size of the output: 1000, of a network that segments 2."),
    image_size: int = typer.Option(None, min=8, help="Side of the images; the model's own if not given."),
    plan: Path = typer.Option(None, help="Of a network that segments: a file as `ssmlab plan` writes it."),
    dims: int = typer.Option(2, min=2, max=3, help="Likewise, without a plan: 2 for images, 3 for volumes."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="List the models with their number of parameters."),
    parity: bool = typer.Option(False, "--parity", help="How closely each family agrees with the original code."),
) -> None:
    """List the models, or show one: its modules, parameters and operations. Nothing is downloaded or computed."""
    from rich.console import Console

    from ssmlab.core.errors import ModelError
    from ssmlab.models.segmentation.names import SEGMENTATION_MODELS

    console = Console(highlight=False)
    if parity:
        _parity(console)
    elif name is None:
        _list(console, verbose)
    elif name in SEGMENTATION_MODELS:
        if image_size:
            raise ModelError(f"--image-size: the plan says the size of {name}'s patches; give --plan FILE")
        _show_segmenter(console, name, depth, classes or 2, plan, dims)
    elif plan:
        raise ModelError(f"--plan: {name} is built from no plan; {', '.join(SEGMENTATION_MODELS)} are")
    else:
        _show(console, name, depth, classes or CLASSES, image_size)


def _list(console, verbose: bool) -> None:
    from rich.table import Table

    from ssmlab.models.language.names import LANGUAGE_MODELS
    from ssmlab.models.registry import MODELS
    from ssmlab.models.segmentation.names import SEGMENTATION_MODELS

    for group in GROUPS:
        console.print(f"[bold]{group}[/bold]")
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
        for known, entry in (MODELS | LANGUAGE_MODELS | SEGMENTATION_MODELS).items():
            if _group(known, entry) == group:
                title = f"{entry.title}, 2-D and 3-D" if group == "Segmentation" else entry.title
                table.add_row(f"[bold]{known}[/bold]", title, _parameters(known) if verbose else "")
        console.print(table)
    console.print("    timm/<name>, any model of timm, e.g. timm/convnext_tiny", markup=False)
    console.print("ssmlab models NAME shows one, ssmlab models --parity what was compared with the originals")


def _group(name: str, entry) -> str:
    from ssmlab.models.language.names import LANGUAGE_MODELS
    from ssmlab.models.segmentation.names import SEGMENTATION_MODELS

    if name in SEGMENTATION_MODELS:
        return "Segmentation"
    if name in BASELINES or entry.family == "transformer_lm":
        return "Baselines"
    return "Language" if name in LANGUAGE_MODELS else "Vision"


def _parameters(name: str) -> str:
    """Counted on the meta device, where a model of any size takes no memory; vision models with `CLASSES`."""
    from ssmlab.core.formats import large
    from ssmlab.models.segmentation.names import SEGMENTATION_MODELS

    if name in SEGMENTATION_MODELS:
        return " and ".join(large(_count(_build_segmenter(name, 2, _usual(dims)))) for dims in USUAL_SIZE)
    return large(_count(_build(name, CLASSES, None)))


def _build(name: str, classes: int, image_size: int | None):
    """The model without memory for its weights, in evaluation mode."""
    from ssmlab.models.language.names import LANGUAGE_MODELS, create_language_model
    from ssmlab.models.meta import on_meta
    from ssmlab.models.registry import create_model

    with on_meta():
        if name in LANGUAGE_MODELS:
            return create_language_model(name).eval()
        return create_model(name, num_classes=classes, image_size=image_size).eval()


def _usual(dims: int):
    """The plan for large images or volumes."""
    from ssmlab.models.segmentation.plans import propose_plan

    return propose_plan(USUAL_SIZE[dims], memory_bytes=2**40, batch_size=2)


def _build_segmenter(name: str, classes: int, plan):
    """The network without memory for its weights, for colour images or volumes of one channel."""
    from ssmlab.models.meta import on_meta
    from ssmlab.models.segmentation.names import create_segmenter

    with on_meta():
        return create_segmenter(name, plan=plan, num_classes=classes, in_chans=3 if plan.dims == 2 else 1).eval()


def _show_segmenter(console, name: str, depth: int, classes: int, file: Path | None, dims: int) -> None:
    from ssmlab.data.contents import count
    from ssmlab.models.segmentation.names import SEGMENTATION_MODELS
    from ssmlab.models.segmentation.plans import read_plan

    plan = _usual(dims) if file is None else read_plan(file)
    model = _build_segmenter(name, classes, plan)
    of = file or f"the plan that is proposed for {' x '.join(map(str, plan.patch_size))}"
    console.print(
        f"[bold]{name}[/bold] {SEGMENTATION_MODELS[name].title}, {plan.dims}-D: {_count(model):,} parameters by {of}",
        soft_wrap=True,
    )
    channels = count(model.config.in_chans, "channel")
    for line in _map_costs(model, (model.config.in_chans, *plan.patch_size), "a patch", f", {channels}"):
        console.print(line, markup=False, soft_wrap=True)
    _print_tree(console, model, depth)


def _show(console, name: str, depth: int, classes: int, image_size: int | None) -> None:
    from rich.markup import escape

    from ssmlab.models.language.names import LANGUAGE_MODELS

    language = name in LANGUAGE_MODELS
    title = LANGUAGE_MODELS[name].title if language else _describe(name)
    model = _build(name, classes, image_size)
    total = _count(model)
    tokens = getattr(model, "num_tokens", None)
    head = f"[bold]{escape(name)}[/bold] {escape(title)}: {total:,} parameters"
    head += "" if language else f" with {classes:,} class{'' if classes == 1 else 'es'}"
    console.print(head + (f", {tokens} tokens" if tokens else ""), soft_wrap=True)
    lines = _language_costs(model) if language else _vision_costs(model, image_size)
    for line in [*lines, *_printed(name), *_weights(name)]:
        console.print(line, markup=False, soft_wrap=True)
    _print_tree(console, model, depth)


def _print_tree(console, model, depth: int) -> None:
    from rich.tree import Tree

    tree = Tree("", hide_root=True)
    _grow(tree, model, _count(model), depth)
    console.print(tree)


def _describe(name: str) -> str:
    """The title of a vision model; a misspelt name is told before torch is imported."""
    from ssmlab.core.errors import ModelError
    from ssmlab.core.text import did_you_mean
    from ssmlab.models.language.names import LANGUAGE_MODELS
    from ssmlab.models.registry import MODELS, describe
    from ssmlab.models.segmentation.names import SEGMENTATION_MODELS

    if name.startswith("timm/") or name in MODELS:
        return describe(name)
    known = [*MODELS, *LANGUAGE_MODELS, *SEGMENTATION_MODELS]
    hint = did_you_mean(name, known) or "; `ssmlab models` lists them, timm/<name> is any of timm"
    raise ModelError(f"unknown model {name!r}{hint}")


def _vision_costs(model, image_size: int | None) -> list[str]:
    channels, *size = model.default_cfg["input_size"]
    side = image_size or size[-1]
    return _map_costs(model, (channels, side, side), "an image")


def _map_costs(model, shape: tuple[int, ...], what: str, more: str = "") -> list[str]:
    """Operations for one input of this shape (c, *spatial)."""
    import torch

    from ssmlab.core.errors import ModelError
    from ssmlab.core.formats import large
    from ssmlab.profiling import count_flops

    size = " x ".join(map(str, shape[1:]))
    try:
        counts = count_flops(model, torch.zeros(1, *shape, device="meta"))
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"no images of {size} pixels go through it: {str(error).splitlines()[0]}") from error
    parts = ", ".join(f"{name} {large(macs)}" for name, macs in counts.parts.items() if macs)
    lines = [f"{what} of {size}{more}: {large(counts.macs)} MAC = {large(counts.flops)} FLOP ({parts})"]
    if counts.scan_macs:
        macs, flops = counts.macs - counts.scan_macs, counts.flops - counts.scan_flops
        lines.append(f"without the scan: {large(macs)} MAC = {large(flops)} FLOP")
    return lines


def _language_costs(model) -> list[str]:
    from ssmlab.core.formats import large, size
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


def _printed(name: str) -> list[str]:
    """What its authors say, where they say something."""
    from ssmlab.core.formats import large, percent
    from ssmlab.studies.compare import published

    known = published(name)
    if known is None:
        return []
    said = [
        f"{percent(known.top1)} top-1 on ImageNet-1K" if known.top1 else "",
        f"{large(known.parameters)} parameters" if known.parameters else "",
        f"{large(known.macs)} MAC, printed as FLOPs" if known.macs else "",
    ]
    return [f"published: {', '.join(filter(None, said))} at {known.image_size} x {known.image_size} ({known.source})"]


def _weights(name: str) -> list[str]:
    """Where its published weights are, and what may be done with them."""
    from ssmlab.models.catalogue import find_weights

    row = find_weights(name)
    if row is None:
        return []
    size = f", {row.size}" if row.size else ""
    agree = "; to be accepted once, with --accept-licence" if row.licence.accept else ""
    return [f"weights: {row.address}{size} ({row.source})", f"licence of the weights: {row.licence.title}{agree}"]


def _grow(tree, module, total: int, depth: int) -> None:
    """A branch for every child and every parameter of the module's own; equal neighbours share one, as torch prints."""
    from rich.markup import escape

    for parameter_name, parameter in module.named_parameters(recurse=False):
        if any(True for _ in module.children()):
            tree.add(f"{escape(parameter_name)} {escape(_shape(parameter))}")
    for names, child in _runs(module):
        count = _count(child)
        share = f"{count:,}" + (f" each ({len(names) * count / max(total, 1):.1%})" if len(names) > 1 else "")
        share += "" if len(names) > 1 else f" ({count / max(total, 1):.1%})"
        name = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}, {len(names)} ×"
        branch = tree.add(f"{escape(name)} [dim]{escape(_called(child))}[/dim] {share}")
        if depth > 1:
            _grow(branch, child, total, depth - 1)


def _runs(module) -> list[tuple[list[str], object]]:
    """Children, neighbours of a list that print alike together."""
    from torch import nn

    found: list[tuple[list[str], object, str]] = []
    for name, child in module.named_children():
        text = repr(child)
        if found and isinstance(module, (nn.ModuleList, nn.Sequential)) and found[-1][2] == text:
            found[-1][0].append(name)
        else:
            found.append(([name], child, text))
    return [(names, child) for names, child, _ in found]


def _called(module) -> str:
    """Its class with its sizes; those of parameters where it says none."""
    extra = module.extra_repr()
    if not extra and not any(True for _ in module.children()):
        own = module.named_parameters(recurse=False)
        extra = ", ".join(f"{name} {_shape(parameter)}" for name, parameter in own)
    return f"{type(module).__name__}({extra})" if extra else type(module).__name__


def _shape(parameter) -> str:
    return "(" + ", ".join(map(str, parameter.shape)) + ")"


def _count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def _parity(console) -> None:
    """The table that `tests/parity.py --record` wrote."""
    import json
    from importlib.resources import files

    from rich.table import Table

    # by the package's folder: importing ssmlab.checkpoints loads torch
    content = json.loads((files("ssmlab") / "checkpoints" / "parity.json").read_text(encoding="utf-8"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column, justify in (("family", "left"), ("cases", "right"), ("passed", "right"), ("worst error", "right")):
        table.add_column(column, justify=justify)
    table.add_column("original")
    for family, row in content["families"].items():
        worst = f"{row['worst']:.3f}"
        originals = ", ".join(f"{repo} @ {commit[:12]}" for repo, commit in row["originals"])
        table.add_row(family, f"{row['cases']}", f"{row['passed']}", worst, originals)
    console.print(table)
    console.print(
        "worst error: over the tolerance of the case, 1 is the limit; outputs, features by module and gradients of the "
        "original's own code, in float32 (of umamba the gradients in float64)",
        soft_wrap=True,
    )
    console.print(f"recorded {content['date']} at {content['commit']}: {content['versions']}", soft_wrap=True)
