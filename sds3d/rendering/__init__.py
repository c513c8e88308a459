"""Renderers and their references."""
