"""The original's CuTe kernels."""
