"""Measurements, soak runs and proofs: each a command of its own, none of them a part of the product."""

import facestream  # noqa: F401 - prepares the environment before any of them imports numpy or torch
