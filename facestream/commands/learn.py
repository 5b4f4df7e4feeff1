"""`facestream learn`: learn a person from photos, or many people from a folder."""

import argparse
from pathlib import Path
from typing import Any

from facestream.client.flags import add_bulk, add_photos, add_service, require_no_bulk
from schemas.errors import ConfigurationError

DESCRIPTION = """\
Learn a person from one or more photos. Each photo shows the person's face, at least 40 pixels a side.

  facestream learn obama.jpg --person obama --directory demo
  facestream learn 1.jpg 2.jpg 3.jpg --person "Ann Lee" --directory acme
  facestream learn wedding.jpg --person "Ann Lee" --directory acme --face 864,151

Or many people at once, from a folder with a folder for each person, or from a table (.csv) with the columns person and file:

  facestream learn people/ --directory acme --report failed.jsonl
  facestream learn people.csv --directory acme

They wait in a lane of their own, so that others are answered as before. Cut off, the same command goes on where it was.

A table on a terminal; on a pipe a line of JSON a photo: {"photo": ..., "persons": [...], ...} or {"photo": ..., "error": {...}}.
Of a folder there is a count on a terminal, and what failed.
Exit code: 0 every photo was learned, 1 some were not, 2 the command line or the settings are wrong.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "learn",
        help="learn a person from photos",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_photos(parser, "PHOTO|FOLDER|TABLE")
    parser.add_argument(
        "--person", metavar="P", help="whom the photos show: any name or id; a folder or a table says it itself"
    )
    parser.add_argument(
        "--directory",
        required=True,
        metavar="D",
        help="where the person is learned; it comes to be with its first face",
    )
    parser.add_argument(
        "--face",
        metavar="largest|X,Y",
        help="which face, where there are several: the largest, or the one at this point",
    )
    parser.add_argument(
        "--force", action="store_const", const="true", help="learn a face below 40 pixels a side all the same"
    )
    parser.add_argument(
        "--detail", choices=("normal", "high"), help="high: find small faces of large photos too, which takes longer"
    )
    add_bulk(parser)
    add_service(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from facestream.client.send_photos import (
        checked_name,
        checked_options,
        send,
    )  # aiohttp and rich: not for the other commands

    fields = checked_options({"face": arguments.face, "force": arguments.force, "detail": arguments.detail})
    source = _source(arguments)
    if arguments.face not in (None, "largest") and (source or len(arguments.photos) > 1):
        raise ConfigurationError(f"--face {arguments.face} is a point of one photo: give one photo, or --face largest")
    fields["directory"] = checked_name(arguments.directory, "--directory")
    if source:
        from facestream.client.bulk.uploads import send_bulk

        return send_bulk(arguments, "learn", fields, source)
    require_no_bulk(arguments)
    if arguments.person is None:
        raise ConfigurationError(
            "--person says whom the photos show; without it, give one folder with a folder for each person"
        )
    fields["person"] = checked_name(arguments.person, "--person")
    return send(arguments, "learn", fields)


def _source(arguments: argparse.Namespace) -> Path | None:
    """The folder or the table, where it is given instead of photos."""
    only = Path(arguments.photos[0])
    if arguments.person is None and len(arguments.photos) == 1 and (only.is_dir() or only.suffix.lower() == ".csv"):
        return only
    return None
