"""`facestream recognize`: finds the people of a directory in photos."""

import argparse
import os
from pathlib import Path
from typing import Any

from facestream.client.flags import add_bulk, add_detail, add_json, add_photos, add_service, require_no_bulk
from facestream.flags import add_directory, argument_type, parse_text
from schemas.errors import ConfigurationError

DESCRIPTION = """\
Recognize the people in one or more photos: every face with the predicted person, or the reason why it has no
name.

  facestream recognize party.jpg --directory demo
  facestream recognize party.jpg --directory demo --draw party-named.jpg
  facestream recognize *.jpg --directory demo --draw named/ | jq -r '.photo + " " + (.persons[]?.id // "?")'

Or all pictures below a folder:

  facestream recognize photos/ --directory demo --report failed.jsonl > answers.jsonl

A folder goes through the bulk lane, so that single requests are answered first. Interrupted, the same command
continues, and prints all answers, the earlier ones too.

Prints a table on a terminal, and on a pipe JSON Lines: {"photo": ..., "persons": [...], ...} or {"photo": ...,
"error": {...}}. Exit code 1: some photos could not be processed; a photo without a face is no failure.
"""
OPTIONS = {
    "top": ("N", "candidates of each face, 1 to 10 (default: 3)"),
    "limit": ("N", "most faces of a photo, those with the best scores"),
    "min_score": ("S", "leave out faces with a lower score, the probability that it is a face"),
    "min_face": ("PIXELS", "leave out faces with a shorter side"),
    "strangers": (
        "SHARE",
        "false positive identification rate: the share of strangers that get a name (default: 0.01); 1 always names the"
        " best-matching person",
    ),
}


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "recognize",
        help="recognize the people in photos",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_photos(parser, "PHOTO|FOLDER")
    add_directory(parser, "the directory whose people to look for")
    for name, (metavar, text) in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=text)
    add_detail(parser)
    parser.add_argument(
        "--draw",
        metavar="OUT",
        type=argument_type("--draw", parse_text),
        help="draw boxes and names: OUT is the picture to write, for several photos the folder to write to",
    )
    add_json(parser)
    add_bulk(parser)
    add_service(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from facestream.client.send_photos import check_options, send  # aiohttp is slow to import

    fields = check_options({name: getattr(arguments, name) for name in (*OPTIONS, "detail")})
    fields["directory"] = arguments.directory
    if len(arguments.photos) == 1 and os.path.isdir(arguments.photos[0]):
        if arguments.draw is not None:
            raise ConfigurationError("--draw takes photos, not a folder of them")
        from facestream.client.bulk.uploads import send_bulk

        return send_bulk(arguments, "recognize", fields, Path(arguments.photos[0]))
    require_no_bulk(arguments)
    if arguments.draw is None:
        return send(arguments, "recognize", fields)
    from facestream.client.draw import drawing_paths

    return send(arguments, "recognize", fields, drawing_paths(arguments.draw, arguments.photos))
