"""Measures what the package costs, against the passes and operations that it needs."""
