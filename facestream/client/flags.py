"""The flags of commands that talk to a service."""

import argparse

from facestream.flags import add_settings
from schemas.errors import ConfigurationError

EMBEDDED = ("data", "weights", "device")


def add_photos(parser: argparse.ArgumentParser, metavar: str) -> None:
    parser.add_argument("photos", nargs="+", metavar=metavar, help="JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF")


def add_bulk(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "many pictures at once", "they go through the bulk lane; the same command again goes on"
    )
    group.add_argument("--report", metavar="FILE", help="write what failed, and why, as JSON Lines")
    group.add_argument("--again", action="store_true", help="begin anew, whatever was done before")


def require_no_bulk(arguments: argparse.Namespace) -> None:
    """Raises ConfigurationError where flags of a folder come with photos."""
    if arguments.report is not None or arguments.again:
        raise ConfigurationError("--report and --again are for a folder: give one instead of photos")


def add_service(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "service", "without --url: the one that serves the data folder; without one, this process itself"
    )
    group.add_argument(
        "--url", metavar="URL", help="of the service (or FACESTREAM_URL), for example http://127.0.0.1:8080"
    )
    group.add_argument(
        "--key", metavar="KEY", help="API key (better as FACESTREAM_KEY, which other users of the machine do not see)"
    )
    add_settings(parser, EMBEDDED)
