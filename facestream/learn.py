"""`facestream learn`: learn a person from photos."""

import argparse
from typing import Any

from facestream.service_flags import add_photos, add_service
from schemas.errors import ConfigurationError

DESCRIPTION = """\
Learn a person from one or more photos. Each photo shows the person's face, at least 40 pixels a side.

  facestream learn obama.jpg --person obama --directory demo
  facestream learn 1.jpg 2.jpg 3.jpg --person "Ann Lee" --directory acme
  facestream learn wedding.jpg --person "Ann Lee" --directory acme --face 864,151

A table on a terminal; on a pipe a line of JSON a photo: {"photo": ..., "persons": [...], ...} or {"photo": ..., "error": {...}}.
Exit code: 0 every photo was learned, 1 some were not, 2 the command line or the settings are wrong.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "learn",
        help="learn a person from photos",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_photos(parser)
    parser.add_argument("--person", required=True, metavar="P", help="whom the photos show: any name or id")
    parser.add_argument(
        "--directory", required=True, metavar="D", help="where the person is learned; it comes to be with its first face"
    )
    parser.add_argument(
        "--face", metavar="largest|X,Y", help="which face, where there are several: the largest, or the one at this point"
    )
    parser.add_argument("--force", action="store_const", const="true", help="learn a face below 40 pixels a side all the same")
    parser.add_argument(
        "--detail", choices=("normal", "high"), help="high: find small faces of large photos too, which takes longer"
    )
    add_service(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from facestream.photos import checked_name, checked_options, send  # aiohttp and rich: not for the other commands

    fields = checked_options({"face": arguments.face, "force": arguments.force, "detail": arguments.detail})
    if arguments.face not in (None, "largest") and len(arguments.photos) > 1:
        raise ConfigurationError(f"--face {arguments.face} is a point of one photo: give one photo, or --face largest")
    fields["person"] = checked_name(arguments.person, "--person")
    fields["directory"] = checked_name(arguments.directory, "--directory")
    return send(arguments, "learn", fields)
