"""Time and memory against the length of the sequence."""
