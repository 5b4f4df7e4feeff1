"""The flags of commands that talk to a service."""

import argparse
import os
import sys

from facestream.flags import add_settings, argument_type, parse_path, parse_text
from schemas.errors import ConfigurationError
from schemas.media import FORMATS

EMBEDDED = ("data", "weights", "device")


def add_photos(parser: argparse.ArgumentParser, metavar: str) -> None:
    parser.add_argument(
        "photos",
        nargs="+",
        metavar=metavar,
        type=argument_type(metavar, parse_text),
        help=FORMATS,
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON Lines on a terminal too")


def prints_json(arguments: argparse.Namespace) -> bool:
    return arguments.json or not sys.stdout.isatty()


def add_detail(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--detail", choices=("normal", "high"), help="high: also find small faces in large photos, which takes longer"
    )


def add_bulk(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("folders", "they go through the bulk lane; the same command again continues")
    group.add_argument(
        "--report",
        metavar="FILE",
        type=argument_type("--report", parse_path),
        help="write the failures to this file, as JSON Lines",
    )
    group.add_argument("--again", action="store_true", help="start anew, whatever was done before")


def require_no_bulk(arguments: argparse.Namespace) -> None:
    """Raises ConfigurationError if photos are given with flags that are only for a folder."""
    if arguments.report is not None or arguments.again:
        raise ConfigurationError("--report and --again are for a folder: give a folder instead of photos")


def add_service(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "service", "without --url: the service of the data folder; where none runs, this process serves itself"
    )
    group.add_argument(
        "--url",
        metavar="URL",
        type=argument_type("--url", parse_text),
        help="URL of the service (or FACESTREAM_URL), for example http://127.0.0.1:8080",
    )
    group.add_argument(
        "--key",
        metavar="KEY",
        type=argument_type("--key", parse_text),
        help="API key (better as FACESTREAM_KEY, which other users of the machine cannot see)",
    )
    add_settings(parser, EMBEDDED)


def url_and_key(arguments: argparse.Namespace) -> tuple[str | None, str | None]:
    """The URL of the service and the API key, from the flags or the environment."""
    return (
        arguments.url or os.environ.get("FACESTREAM_URL") or None,
        arguments.key or os.environ.get("FACESTREAM_KEY") or None,
    )
