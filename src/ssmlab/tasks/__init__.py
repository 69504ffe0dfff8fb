"""Tasks turn a batch into a loss, and outputs into metrics."""
