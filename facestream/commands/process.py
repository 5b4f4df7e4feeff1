"""`facestream process`: a processor, which detects and embeds faces, as a separate process."""

import argparse
from typing import Any

from facestream.flags import STORES, add_settings, settings_from

DESCRIPTION = """\
Detect and embed faces. Start as many as the images need: they share the partitions. With --stage detect and
--stage embed the two stages run in different processes, each on the hardware that suits it.
"""
SETTINGS = (
    *STORES,
    "watch",
    "member",
    "stage",
    "weights",
    "device",
    "dtype",
    "max_upload",
    "max_pixels",
    "sources",
    "threads",
    "decoders",
)


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "process", help="one role of a distributed system: detects and embeds faces", description=DESCRIPTION
    )
    add_settings(parser, SETTINGS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from facestream.runtime.run_roles import run_roles  # slow imports, which other commands do not need

    return run_roles(settings_from(arguments), ("process",), lambda url: None)
