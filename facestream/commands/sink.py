"""`facestream sink`: a sink, which writes learned faces and matches probes, as a separate process."""

import argparse
from typing import Any

from facestream.flags import STORES, add_settings, settings_from

DESCRIPTION = """\
Write learned faces, match probes against the galleries, keep the answers. One sink serves each directory: start
more sinks for more directories.
"""
SETTINGS = (*STORES, "watch", "member", "keep_probes", "gallery_memory")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "sink", help="one role of a distributed system: writes and matches faces", description=DESCRIPTION
    )
    add_settings(parser, SETTINGS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from facestream.runtime.run_roles import run_roles  # slow imports, which other commands do not need

    return run_roles(settings_from(arguments), ("sink",), lambda url: None)
