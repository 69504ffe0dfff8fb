"""The names of the original's Triton kernels; nothing here needs Triton."""
