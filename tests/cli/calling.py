"""The command line, called."""

from ssmlab.cli.main import main


def call(*arguments):
    """In this process; returns the exit code."""
    try:
        main(list(map(str, arguments)))
    except SystemExit as end:
        return end.code or 0
    return 0
