"""Models side by side: what they get right, and what that costs. Nothing heavy is imported before they are built."""

from ssmlab.studies.compare.comparison import Options, compare
from ssmlab.studies.compare.published import Published, published

__all__ = ["Options", "Published", "compare", "published"]
