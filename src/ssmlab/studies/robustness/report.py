"""What reports say of these runs: the same as of classifications."""

from ssmlab.tasks.classify.report import REPORT

__all__ = ["REPORT"]
