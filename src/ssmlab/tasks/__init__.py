"""Tasks: a folder each, announced in `table`."""
