"""`ssmlab segment`: what a trained network marks in images and volumes."""

from pathlib import Path

import typer


def segment(
    model: Path = typer.Argument(
        metavar="MODEL", help="A run's folder, a model's folder in it, or a checkpoint (.pth) of U-Mamba's trainers."
    ),
    images: list[Path] = typer.Argument(metavar="IMAGE...", help="Images, NIfTI volumes, and folders of them."),
    out: Path = typer.Option("masks", "--out", "-o", help="Folder for masks and overlays; made where it is missing."),
    probabilities: bool = typer.Option(False, "--probabilities", help="Write every class's probabilities too (.npz)."),
    mirror: bool = typer.Option(False, "--mirror", help="Average over mirrored images: 4 or 8 times the time."),
    overlap: float = typer.Option(0.5, min=0, max=0.95, help="Share of a window that the next one covers again."),
    batch_size: int = typer.Option(1, min=1, help="Windows at once."),
    device: str = typer.Option("auto", help="auto, cuda, mps or cpu."),
) -> None:
    """Mark the classes in images, window by window. Exit code 2 if some cannot be read."""
    from ssmlab.core.display import Display
    from ssmlab.core.errors import DataError
    from ssmlab.tasks.segment.new_images import Segmenter, find_images, find_network

    network, why = find_network(model)
    segmenter = Segmenter(network, device, overlap=overlap, mirror=mirror, batch=batch_size)
    cases, notes = find_images(images, segmenter.channels)
    display = Display(stderr=True)
    for note in ([why] if why else []) + notes:
        display.say(note)
    marked, problems = [], []
    display.start("segmenting", len(cases))
    try:
        for done, found in enumerate(segmenter.run(cases, out, probabilities=probabilities), start=1):
            (problems if isinstance(found, str) else marked).append(found)
            display.update(done)
    finally:
        display.stop()
    for found in marked:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in list(found.shares.items())[1:])
        typer.echo(f"{found.name}: {shares}")
    if marked:
        display.say(f"{len(marked)} masks written to {out.resolve()}")
    if problems:
        raise DataError(f"{len(problems)} of {len(cases)} images cannot be segmented", problems)
