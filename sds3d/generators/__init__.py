"""Generators: networks that map a text to a whole radiance field in one pass, trained by score distillation."""
