"""`ssmlab bench`: how fast the operators are here, against other code and against the machine itself."""

import typer

from ssmlab.cli.options import takes
from ssmlab.profiling.bench.options import BenchOptions

app = typer.Typer(no_args_is_help=True)


@app.callback()
def main() -> None:
    """Measure this machine: correctness first, then time."""


@app.command("ops")
@takes(BenchOptions)
def bench_ops(options: BenchOptions) -> None:
    """Time every operator against its reference, mambapy, transformers, torch.exp and a copy.

    On a GPU the opponents are mamba_ssm, causal_conv1d and flash-linear-attention where they are installed, and the
    yardsticks exponentials in registers and attention; the lti has no kernel there and is left out. After the operators
    come their first calls, which compile; language models of 130m, 1.4b and 2.8b parameters, tokens a second of a
    training step and of decoding; and vision models at 224 x 224 pixels next to timm's, images a second.

    First every backend is compared with the reference in float64; if one is wrong, nothing is timed and the exit code
    is 1. What computes a shape is timed in turns in one process.
    """
    from ssmlab.cli.display import showing
    from ssmlab.profiling.bench import measure_machine

    with showing("interrupted; nothing was written") as display:
        found = measure_machine(options, progress=display)
        for line in found.wrong:
            display.say(f"FAIL  {line}")
        if found.wrong:
            display.say("nothing is timed: these differ from the reference in float64; see ssmlab doctor")
            raise typer.Exit(1)
        for text in found.texts():
            display.say(text)
        found.write(options.output)
        display.say(f"table, records, plots and settings: {options.output}")
