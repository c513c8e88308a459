"""From a prompt to the texts and embeddings that condition a prior."""
