"""A plan that is read from a file, or proposed for images that somebody has. torch is not imported."""

from pathlib import Path
from typing import Any, NamedTuple

from ssmlab.core.progress import Progress
from ssmlab.data.masks.reader import measure_masks
from ssmlab.models.segmentation.plans import Plan, propose_plan, read_plan
from ssmlab.tasks.segment.options import PlanOptions


class Proposal(NamedTuple):
    """A plan, what it is for, and in words what was seen of the images, "" for a plan from a file."""

    plan: Plan
    channels: int
    classes: int
    seen: str = ""


def propose(
    source: str | Path, options: PlanOptions | None = None, *, progress: Progress | None = None, **given: Any
) -> Proposal:
    """The plan in a .toml or .json file, or one for images with masks; written where the options name a file.

    Args:
        source: a file, or data as a run of segmentation takes them.
        options: the fields of `PlanOptions` may also be given one by one.
    Raises:
        ModelError: no plan fits, or none is in the file. DataError: the data cannot be read.
    """
    options, progress, begun = PlanOptions.of(options, given, "propose"), progress or Progress(), False

    def show(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            progress.start(f"checking {source}", total)
            begun = True
        progress.update(done)

    if Path(source).suffix in (".toml", ".json"):
        plan = read_plan(source, options.configuration)
        proposal = Proposal(plan, 3 if plan.dims == 2 else 1, options.classes or 2)
    else:
        try:
            found, names, count = measure_masks(source, images=options.images, masks=options.masks, progress=show)
        finally:
            progress.stop()
        classes, assumed = options.classes or len(names) or 2, ""
        if not (options.classes or names):
            assumed = " (assumed, nothing says what the masks' values mean; --classes=N says it)"
        plan = propose_plan(
            found.usual, found.spacing, options.memory * 2**30, found.channels, classes, options.dims,
            base_features=options.features, batch_size=options.batch_size,
        )  # fmt: skip
        seen = f"{count:,} images in {found.dimensions}-D, median {by(found.usual)}{at(found)}"
        seen += f"; channels {found.channels}, classes {classes}{assumed}"
        proposal = Proposal(plan, found.channels, classes, seen)
    if options.out:
        proposal.plan.write(options.out)
    return proposal


def by(sizes: Any) -> str:
    """Sizes in words: 64 x 64."""
    return " x ".join(f"{n:g}" for n in sizes)


def at(sizes: Any) -> str:
    """The spacing of images or of a plan in words, "" where it says nothing."""
    return f" at a spacing of {by(sizes.spacing)}" if set(sizes.spacing) - {1.0} else ""
