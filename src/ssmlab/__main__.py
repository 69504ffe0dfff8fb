"""`python -m ssmlab` is `ssmlab`."""

import sys


def main() -> None:
    """The command line; Ctrl-C ends it with 130 from the first moment on, while it still imports."""
    try:
        from ssmlab.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
