"""Queues, workers, and batches of runs."""
