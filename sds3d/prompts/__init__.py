"""From a prompt to the texts and embeddings that a prior is asked with."""
