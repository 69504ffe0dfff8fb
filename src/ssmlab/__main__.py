"""`python -m ssmlab` is `ssmlab`."""

from ssmlab.cli.main import main

if __name__ == "__main__":
    main()
