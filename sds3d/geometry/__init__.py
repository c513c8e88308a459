"""Meshes and Gaussian splats as plain arrays, and what can be done to them."""
