"""`facestream watch`: a folder does what a bucket does, what is put into it is learned or recognized."""

import argparse
from pathlib import Path
from typing import Any

from facestream.client.flags import add_service

DESCRIPTION = """\
Watch a folder: pictures that are put there, or changed, are learned or recognized, until Ctrl-C.

  FOLDER/DIRECTORY/learn/PERSON/…    are learned
  FOLDER/DIRECTORY/recognize/…       are recognized

They wait in a lane of their own, so that others are answered as before; the files stay. Started again, it goes on with what is
new.

A line for each picture; on a pipe of JSON: {"photo": ..., "persons": [...], ...} or {"photo": ..., "error": {...}}.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "watch",
        help="learn and recognize what is put into a folder",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    add_service(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from facestream.client.watched_folder import watch  # aiohttp: not for the other commands

    return watch(arguments, arguments.folder)
