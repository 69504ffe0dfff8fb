"""`ssmlab exec`: run somebody else's program on our kernels."""

import typer


def execute(
    program: list[str] = typer.Argument(
        ..., metavar="SCRIPT [ARGS]...", help="A script and its arguments, or -m MODULE and its arguments."
    ),
    force: bool = typer.Option(False, "--force", help="Stand in for installed mamba_ssm and causal_conv1d too."),
    device: str = typer.Option(
        None,
        metavar="cpu|cuda",
        help="cpu: every CUDA device is the CPU; cuda: leave devices alone. cpu where there is no GPU.",
        show_default=False,
    ),
    autocast: str = typer.Option(
        "float32", metavar="float32|bfloat16", help="What autocast on CUDA computes in on the CPU."
    ),
) -> None:
    """Run a program written for mamba_ssm and causal_conv1d, unchanged, on any machine.

    Options of ssmlab come before the script, everything after it belongs to the script:
    `ssmlab exec --force train.py --lr 1e-3`, `ssmlab exec -m pytest tests/`.
    """
    import sys
    import traceback

    from ssmlab.compat.running import run, without_ours
    from ssmlab.core.errors import UserError

    try:
        run(program, force=force, device=device, autocast=autocast)
    except UserError:
        raise
    except Exception as error:
        traceback.print_exception(type(error), error, without_ours(error.__traceback__))
        sys.exit(1)
