"""The original's TileLang kernels: their entry point, on `ssmlab.ops.mamba3`."""
