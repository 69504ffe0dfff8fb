"""Options that several commands on vision models have."""

from typing import Annotated

import typer

Weights = Annotated[
    list[str] | None, typer.Option(help="Weights of a network by name: FILE, or NAME=FILE for one of several.")
]
ImageSize = Annotated[int | None, typer.Option(min=8, help="For networks by name.")]
Threads = Annotated[int, typer.Option(min=0, help="On the CPU; 0: as many as torch takes.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Group = Annotated[str | None, typer.Option(help="The data's column whose images stay on one side.")]
Labels = Annotated[str, typer.Option(help="Column of the classes in a table; of CIFAR-100 fine or coarse.")]
