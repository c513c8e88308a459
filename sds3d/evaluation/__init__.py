"""Benchmarks: assets against the ground truth of the toy world, and the speed of kernels, priors and joint runs."""
