"""How models hold when images change."""
