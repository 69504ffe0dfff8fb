"""`ssmlab exec`: run somebody else's program on our kernels."""

import typer


def execute(
    program: list[str] = typer.Argument(
        ..., metavar="SCRIPT [ARGS]...", help="A script and its arguments, or -m MODULE and its arguments."
    ),
    force: bool = typer.Option(False, "--force", help="Stand in for installed mamba_ssm and causal_conv1d too."),
) -> None:
    """Run a program written for mamba_ssm and causal_conv1d, unchanged, on any machine.

    Options of ssmlab come before the script, everything behind it belongs to the script:
    `ssmlab exec --force train.py --lr 1e-3`, `ssmlab exec -m pytest tests/`.
    """
    from ssmlab.compat.running import run

    run(program, force=force)
