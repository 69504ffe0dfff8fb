"""Adapting a trained model: adapters, factorised weights, freezing, and what is forgotten."""
