"""The procedural toy world, and the training of what is embedded."""
