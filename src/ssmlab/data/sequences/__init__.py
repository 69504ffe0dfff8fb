"""Sequences with labels: texts, sounds, genes."""
