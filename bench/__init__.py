"""Measurements, soak runs and proofs: each a command of its own, none of them a part of the product."""

from facestream import environment

environment.prepare()  # before any of them imports torch
