"""One run: its settings, its folder, the optimisation loop, and its output."""
