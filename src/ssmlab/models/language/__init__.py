"""Language models, a family a file."""
