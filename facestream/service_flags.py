"""The flags of commands that talk to a service."""

import argparse

from facestream.settings_flags import add_flags

EMBEDDED = ("data", "weights", "device")


def add_photos(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF")


def add_service(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "service", "without --url: the one that serves the data folder; without one, this process itself"
    )
    group.add_argument("--url", metavar="URL", help="of the service (or FACESTREAM_URL), for example http://127.0.0.1:8080")
    group.add_argument(
        "--key", metavar="KEY", help="API key (better as FACESTREAM_KEY, which other users of the machine do not see)"
    )
    add_flags(parser, EMBEDDED)
