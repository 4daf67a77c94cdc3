"""Experiments whose results decide what is the default, each run by one command."""
