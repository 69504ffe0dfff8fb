"""Fitting a model. Everything but `config` imports torch."""
