"""Mamba-3 in the original's Triton kernels: its entry points, on `ssmlab.ops.mamba3`."""
