"""Holds one file per study, each with one command."""
