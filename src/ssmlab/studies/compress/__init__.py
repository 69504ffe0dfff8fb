"""Models with factorised layers: what that costs and saves."""
