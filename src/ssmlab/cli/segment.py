"""`ssmlab segment`: what a trained network marks in images and volumes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssmlab.cli.options import takes
from ssmlab.tasks.segment.options import SegmentOptions


@takes(SegmentOptions)
def segment(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A run's folder, a model's folder in it, or a checkpoint (.pth) of U-Mamba's trainers.",
        ),
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Images, NIfTI volumes, and folders of them.")
    ],
    options: SegmentOptions,
) -> None:
    """Mark the classes in images, window by window. Exit code 2 if some cannot be read."""
    from ssmlab.core.display import Display
    from ssmlab.core.errors import DataError
    from ssmlab.tasks.segment.new_images import Segmenter, find_images, find_network

    network, why = find_network(model)
    segmenter = Segmenter(network, options)
    cases, notes = find_images(images, segmenter.channels)
    display = Display(stderr=True)
    for note in ([why] if why else []) + notes:
        display.say(note)
    marked: list[Any] = []
    problems: list[Any] = []
    display.start("segmenting", len(cases))
    try:
        for done, found in enumerate(segmenter.run(cases), start=1):
            (problems if isinstance(found, str) else marked).append(found)
            display.update(done)
    finally:
        display.stop()
    for found in marked:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in list(found.shares.items())[1:])
        typer.echo(f"{found.name}: {shares}")
    if marked:
        display.say(f"{len(marked)} masks written to {options.out.resolve()}")
    if problems:
        raise DataError(f"{len(problems)} of {len(cases)} images cannot be segmented", problems)
