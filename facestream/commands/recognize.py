"""`facestream recognize`: say who is in photos."""

import argparse
from pathlib import Path
from typing import Any

from facestream.client.flags import add_bulk, add_photos, add_service, require_no_bulk
from schemas.errors import ConfigurationError

DESCRIPTION = """\
Say who is in one or more photos: every face with the person it is, or why it is nobody's.

  facestream recognize party.jpg --directory demo
  facestream recognize party.jpg --directory demo --draw party-named.jpg
  facestream recognize *.jpg --directory demo --draw named/ | jq -r '.photo + " " + (.persons[]?.id // "?")'

Or all pictures below a folder:

  facestream recognize photos/ --directory demo --report failed.jsonl > answers.jsonl

They wait in a lane of their own, so that others are answered as quickly as before. Cut off, the same command goes on where it was
and gives all answers, also those from before.

A table on a terminal; on a pipe a line of JSON a photo: {"photo": ..., "persons": [...], ...} or {"photo": ..., "error": {...}}.
Exit code: 0 every photo was answered (also with nobody in it), 1 some were not, 2 the command line or the settings are wrong.
"""
OPTIONS = {
    "top": ("N", "candidates a face, 1 to 10 (default: 3)"),
    "limit": ("N", "most faces a photo, the best scores first"),
    "min_score": ("S", "leave out faces whose score, the probability that it is a face, is lower"),
    "min_face": ("PIXELS", "leave out faces that are smaller a side"),
    "strangers": ("SHARE", "share of strangers that may get a name (default: 0.01); 1 always names the nearest"),
}


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "recognize",
        help="say who is in photos",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_photos(parser, "PHOTO|FOLDER")
    parser.add_argument("--directory", required=True, metavar="D", help="whose people to look for")
    for name, (metavar, text) in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=text)
    parser.add_argument(
        "--detail", choices=("normal", "high"), help="high: find small faces of large photos too, which takes longer"
    )
    parser.add_argument(
        "--draw",
        metavar="OUT",
        help="draw boxes and names: OUT is the picture to write, for several photos the folder to write them in",
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

    fields = checked_options({name: getattr(arguments, name) for name in (*OPTIONS, "detail")})
    fields["directory"] = checked_name(arguments.directory, "--directory")
    if len(arguments.photos) == 1 and Path(arguments.photos[0]).is_dir():
        if arguments.draw is not None:
            raise ConfigurationError("--draw takes photos, not a folder of them")
        from facestream.client.bulk.uploads import send_bulk

        return send_bulk(arguments, "recognize", fields, Path(arguments.photos[0]))
    require_no_bulk(arguments)
    if arguments.draw is None:
        return send(arguments, "recognize", fields)
    from facestream.client.draw import targets

    return send(arguments, "recognize", fields, targets(arguments.draw, arguments.photos))
