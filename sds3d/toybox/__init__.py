"""The procedural toy world, and the training of the embedded prior and scorer."""
