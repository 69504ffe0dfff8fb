"""What a model looked for, and where. Nothing heavy is imported before it is opened."""

from ssmlab.studies.explain.pictures import Options, explain_pictures

__all__ = ["Options", "explain_pictures"]
