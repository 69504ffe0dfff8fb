"""Models with factorised layers: what that costs and saves. Nothing heavy is imported before they are built."""

from ssmlab.studies.compress.compression import Options, compress

__all__ = ["Options", "compress"]
