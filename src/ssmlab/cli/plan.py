"""`ssmlab plan`: the sizes of a segmentation network, proposed for a user's images, or read from a file."""

from typing import Annotated

import typer

from ssmlab.cli.options import takes
from ssmlab.tasks.segment.options import PlanOptions


@takes(PlanOptions)
def plan(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA|PLAN", help="Images with masks, as a run of segmentation takes them; or a plan: .toml, .json."
        ),
    ],
    options: PlanOptions,
) -> None:
    """Propose the sizes of a segmentation network for your images; edit the file, and give it to a run as plan=FILE."""
    from rich.console import Console
    from rich.table import Table

    from ssmlab.core.display import Display
    from ssmlab.core.formats import size
    from ssmlab.models.segmentation.plans import training_bytes
    from ssmlab.tasks.segment.proposing import at, by, propose

    found = propose(source, options, progress=Display(stderr=True))
    console, plan = Console(highlight=False), found.plan
    if found.seen:
        console.print(found.seen, markup=False, soft_wrap=True)
    scales = ", deep supervision" if plan.deep_supervision else ""
    console.print(f"patch {by(plan.patch_size)}{at(plan)}, batch {plan.batch_size}{scales}", markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("stage", "channels", "kernel", "stride", "map", "blocks", "in decoder"):
        table.add_column(name, justify="right")
    decoder = [str(n) for n in reversed(plan.n_conv_decoder)] + [""]
    for stage, sizes in enumerate(plan.map_sizes()):
        axes = (by(values) for values in (plan.kernel_sizes[stage], plan.strides[stage], sizes))
        table.add_row(str(stage), str(plan.features[stage]), *axes, str(plan.n_conv_encoder[stage]), decoder[stage])
    console.print(table)
    taken = size(int(training_bytes(plan, found.channels, found.classes)))
    console.print(f"training takes at most {taken} on the CPU in float32, by estimate", markup=False)
    if options.out:
        console.print(
            f"written to {options.out}; ssmlab run RECIPE plan={options.out} trains with it",
            markup=False, soft_wrap=True,
        )  # fmt: skip
