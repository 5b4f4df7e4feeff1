"""The common arguments of the accuracy scripts: the photos and the models."""

import argparse
from pathlib import Path

from bench.photos import add_photos_argument
from bench.speed.bare import ShippedNetworks, load_networks
from facestream.config import Settings

LFW = "LFW: lfw/NAME/NAME_0001.jpg, a folder a person"
STREET = "labelled street photos: street/labels.json and the files that it names"


def add_arguments(parser: argparse.ArgumentParser, content: str = LFW) -> None:
    add_photos_argument(parser, content)
    parser.add_argument("--weights", type=Path, default=Path("data/weights"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")


def load_chosen(chosen: argparse.Namespace) -> ShippedNetworks:
    """Loads the chosen models. Raises WeightsInvalid, ConfigurationError."""
    return load_networks(Settings(weights=chosen.weights, device=chosen.device, dtype=chosen.dtype))
