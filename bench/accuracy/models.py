"""Which models a script measures, and on which photos: what all that measure accuracy are told."""

import argparse
from pathlib import Path

from bench.speed.bare import Networks, load
from facestream.config import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("data/weights"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")


def load_chosen(chosen: argparse.Namespace) -> Networks:
    """Raises WeightsInvalid, ConfigurationError."""
    return load(Settings(weights=chosen.weights, device=chosen.device, dtype=chosen.dtype))
