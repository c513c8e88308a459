"""Meshes and Gaussian splats as plain arrays, and operations on them."""
