"""`ssmlab plan`: the sizes of a segmentation network, proposed for a user's images, or read from a file."""

from pathlib import Path

import typer


def plan(
    source: str = typer.Argument(
        metavar="DATA|PLAN", help="Images with masks, as a run of segmentation takes them; or a plan: .toml, .json."
    ),
    out: Path = typer.Option(None, "-o", "--out", help="Write the plan to this .toml or .json file."),
    memory: float = typer.Option(8.0, min=0.1, help="GiB that training may take."),
    dims: int = typer.Option(None, min=2, max=3, help="2 plans for the slices of volumes; else as the data."),
    batch_size: int = typer.Option(None, min=1, help="Patches a step; found where not given."),
    features: int = typer.Option(32, min=1, help="Channels of the first stage."),
    classes: int = typer.Option(
        None, min=2, help="With the background; as dataset.json or the masks say where not given."
    ),
    images: str = typer.Option("", help="Folder of the images below DATA, where its name does not say so."),
    masks: str = typer.Option("", help="Likewise of the masks."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace the file of --out, if there is one."),
    configuration: str = typer.Option(None, help="Which one of nnU-Net's plans.json: 2d, 3d_fullres ..."),
) -> None:
    """Propose the sizes of a segmentation network for your images; edit the file, and give it to a run as plan=FILE."""
    from rich.console import Console

    from ssmlab.core.errors import ModelError
    from ssmlab.models.segmentation.plans import read_plan

    console = Console(highlight=False)
    if out and out.suffix not in (".toml", ".json"):
        raise ModelError(f"a plan is written as .toml or .json, got {out.name}")
    if out and not out.parent.is_dir():
        raise ModelError(f"there is no folder {out.parent} for {out.name}")
    if out and out.exists() and not overwrite:
        raise ModelError(f"{out} is there, perhaps edited; add --overwrite to replace it, or give another name")
    if Path(source).suffix in (".toml", ".json"):
        found = read_plan(source, configuration)
        channels, classes = 3 if found.dims == 2 else 1, classes or 2
    else:
        found, channels, classes = _proposed(
            console, source, images, masks, memory, dims, batch_size, features, classes
        )
    _show(console, found, channels, classes)
    if out:
        found.write(out)
        console.print(f"written to {out}; ssmlab run RECIPE plan={out} trains with it", markup=False, soft_wrap=True)


def _proposed(console, source, images, masks, memory, dims, batch_size, features, classes):
    """The plan for a data set, its channels and classes."""
    from ssmlab.core.display import Display
    from ssmlab.data.masks.reader import measure_masks
    from ssmlab.models.segmentation.plans import propose_plan

    display, started = Display(stderr=True), []

    def show(done: int, total: int) -> None:
        if not started:
            display.start(f"checking {source}", total)
            started.append(total)
        display.update(done)

    try:
        found, names, count = measure_masks(source, images=images, masks=masks, progress=show)
    finally:
        display.stop()
    assumed = "" if classes or names else " (assumed, nothing says what the masks' values mean; --classes=N says it)"
    classes = classes or len(names) or 2
    size = _by(found.usual)
    console.print(
        f"{count:,} images in {found.dimensions}-D, median {size}{_at(found)}; channels {found.channels}, "
        f"classes {classes}{assumed}",
        markup=False,
        soft_wrap=True,
    )
    plan = propose_plan(
        found.usual,
        found.spacing,
        memory * 2**30,
        found.channels,
        classes,
        dims,
        base_features=features,
        batch_size=batch_size,
    )
    return plan, found.channels, classes


def _show(console, plan, channels: int, classes: int) -> None:
    from rich.table import Table

    from ssmlab.core.formats import size
    from ssmlab.models.segmentation.plans import training_bytes

    taken = size(int(training_bytes(plan, channels, classes)))
    scales = ", deep supervision" if plan.deep_supervision else ""
    console.print(f"patch {_by(plan.patch_size)}{_at(plan)}, batch {plan.batch_size}{scales}", markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("stage", "channels", "kernel", "stride", "map", "blocks", "in decoder"):
        table.add_column(name, justify="right")
    decoder = [str(n) for n in reversed(plan.n_conv_decoder)] + [""]
    for stage, sizes in enumerate(plan.map_sizes()):
        axes = (_by(values) for values in (plan.kernel_sizes[stage], plan.strides[stage], sizes))
        table.add_row(str(stage), str(plan.features[stage]), *axes, str(plan.n_conv_encoder[stage]), decoder[stage])
    console.print(table)
    console.print(f"training takes at most {taken} on the CPU in float32, by estimate", markup=False)


def _by(sizes) -> str:
    return " x ".join(f"{n:g}" for n in sizes)


def _at(sizes) -> str:
    """The spacing, where it says something."""
    return f" at a spacing of {_by(sizes.spacing)}" if set(sizes.spacing) - {1.0} else ""
