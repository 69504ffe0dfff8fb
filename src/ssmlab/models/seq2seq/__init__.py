"""Translation: networks whose prompt state begins from a source, a family a file."""
