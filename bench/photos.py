"""The photos of a measurement: its argument, else the environment variable PHOTOS, else ./photos."""

import argparse
import os
from pathlib import Path


def add_photos_argument(parser: argparse.ArgumentParser, content: str) -> None:
    """content: what the folder must hold, for the help text."""
    parser.add_argument(
        "photos",
        metavar="PHOTOS",
        nargs="?",
        type=Path,
        default=Path(os.environ.get("PHOTOS", "photos")),
        help=f"folder with {content} (default: $PHOTOS, else ./photos, which `make photos` fills)",
    )
