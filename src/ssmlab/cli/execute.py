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
    import sys
    import traceback

    from ssmlab.compat.running import run, without_ours
    from ssmlab.errors import UserError

    try:
        run(program, force=force)
    except UserError:
        raise
    except Exception as error:
        traceback.print_exception(type(error), error, without_ours(error.__traceback__))
        sys.exit(1)
