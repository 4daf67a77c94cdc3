"""Provides a recipe for each data set."""
