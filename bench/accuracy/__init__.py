"""Measures accuracy on labelled photos, and fits the numbers of weights/manifest.toml."""
