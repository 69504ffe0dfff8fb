"""What a model looked for, and where."""
