"""Recipes and runs. Only `run` and `trainer` import torch, and only when they are used."""

from ssmlab.training.recipe import Recipe, list_recipes, load_recipe

__all__ = ["Recipe", "list_recipes", "load_recipe"]
