"""Processes that work off runs."""
