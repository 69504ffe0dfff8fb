"""Stands in for `mamba_ssm.distributed`."""
