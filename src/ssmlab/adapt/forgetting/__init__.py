"""What keeps a model able to do its old task."""
