"""How models hold when images change. Nothing heavy is imported before they are built."""

from ssmlab.studies.robustness.evaluation import Options, robustness

__all__ = ["Options", "robustness"]
