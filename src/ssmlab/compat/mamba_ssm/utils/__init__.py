"""Stands in for `mamba_ssm.utils`."""
