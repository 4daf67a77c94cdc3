"""Makes the figures in `results/` and the presets of the package."""
