"""Recipes become runs: jobs, folders, sweeps."""
