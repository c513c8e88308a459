"""From a prompt to the texts that a prior is asked for."""
