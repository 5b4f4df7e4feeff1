"""`facestream learn`: learn a person from photos, or many people from a folder."""

import argparse
import os
from pathlib import Path
from typing import Any

from facestream.client.flags import add_bulk, add_detail, add_json, add_photos, add_service, require_no_bulk
from facestream.flags import add_directory, argument_type
from schemas.errors import ConfigurationError
from schemas.names import normalise_name

DESCRIPTION = """\
Learn a person from one or more photos. Each photo shows the person's face, at least 40 pixels a side.

  facestream learn obama.jpg --person obama --directory demo
  facestream learn 1.jpg 2.jpg 3.jpg --person "Ann Lee" --directory acme
  facestream learn wedding.jpg --person "Ann Lee" --directory acme --face 864,151

Or many people at once, from a folder with a folder for each person, or from a table (.csv) with the columns
person and file:

  facestream learn people/ --directory acme --report failed.jsonl
  facestream learn people.csv --directory acme

A folder goes through the bulk lane, so that single requests are answered first. Interrupted, the same command
continues.

Prints a table on a terminal, and on a pipe JSON Lines: {"photo": ..., "persons": [...], ...} or {"photo": ...,
"error": {...}}. For a folder a terminal gets a count and the failures. Exit code 1: some photos were not
learned.
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
        "--person",
        metavar="P",
        type=argument_type("--person", normalise_name),
        help="the person in the photos: any name or id; for a folder or a table leave it out",
    )
    add_directory(parser, "the directory to learn into; it exists from its first face on")
    parser.add_argument(
        "--face",
        metavar="largest|X,Y",
        help="which of several faces to learn: the largest, or the one at this point",
    )
    parser.add_argument(
        "--force", action="store_const", const="true", help="learn a face even if it is under 40 pixels a side"
    )
    add_detail(parser)
    add_json(parser)
    add_bulk(parser)
    add_service(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from facestream.client.send_photos import check_options, send  # aiohttp is slow to import

    fields = check_options({"face": arguments.face, "force": arguments.force, "detail": arguments.detail})
    source = _source(arguments)
    if arguments.face not in (None, "largest") and (source or len(arguments.photos) > 1):
        raise ConfigurationError(f"--face {arguments.face} is a point of one photo: give one photo, or --face largest")
    fields["directory"] = arguments.directory
    if source:
        from facestream.client.bulk.uploads import send_bulk

        return send_bulk(arguments, "learn", fields, source)
    require_no_bulk(arguments)
    if arguments.person is None:
        raise ConfigurationError(
            "give the person in the photos with --person, or one folder that has a folder for each person"
        )
    fields["person"] = arguments.person
    return send(arguments, "learn", fields)


def _source(arguments: argparse.Namespace) -> Path | None:
    """The folder or the table, where one is given instead of photos."""
    only = Path(arguments.photos[0])
    if (
        arguments.person is None
        and len(arguments.photos) == 1
        and (os.path.isdir(only) or only.suffix.lower() == ".csv")
    ):
        return only
    return None
