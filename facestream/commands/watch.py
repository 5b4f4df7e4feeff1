"""`facestream watch`: learns and recognizes the pictures that are put into a folder, as bucket events do for a
bucket.
"""

import argparse
from typing import Any

from facestream.client.flags import add_json, add_service
from facestream.flags import argument_type, parse_path

DESCRIPTION = """\
Watch a folder: pictures that are put there, or changed, are learned or recognized, until Ctrl-C.

  FOLDER/DIRECTORY/learn/PERSON/…    are learned
  FOLDER/DIRECTORY/recognize/…       are recognized

The pictures wait in the bulk lane, so that single requests are answered first; the files stay where they are.
When it is started again, it continues with new pictures.

It prints a line for each picture; on a pipe as JSON: {"photo": ..., "persons": [...], ...} or {"photo": ...,
"error": {...}}.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "watch",
        help="learn and recognize what is put into a folder",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", metavar="FOLDER", type=argument_type("FOLDER", parse_path), help="the folder to watch"
    )
    add_json(parser)
    add_service(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from facestream.client.watched_folder import watch  # aiohttp is slow to import

    return watch(arguments, arguments.folder)
