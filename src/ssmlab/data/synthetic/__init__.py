"""Generated sequences."""
