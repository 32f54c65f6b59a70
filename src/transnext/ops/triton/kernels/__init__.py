"""The kernels themselves. They import Triton alone."""
