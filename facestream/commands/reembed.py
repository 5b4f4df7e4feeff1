"""`facestream reembed`: embeds every learned face with another model."""

import argparse
from typing import Any

from facestream.admin.replay import add_replay_flags, replay
from facestream.flags import settings_from
from facestream.interrupt import run_interruptibly
from facestream.terminal import log_warnings_only

DESCRIPTION = """\
Embed every learned face with another model, while the service goes on. NAME is a generation of `facestream
models list`.

From its start on, every new face is embedded with it too; the faces that exist are read from the stream and
embedded from their kept crops. Start it on several machines to share the work. Interrupted, it continues when
it is started again. When it is complete: facestream models compare OLD NAME, then facestream models activate
NAME.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "reembed",
        help="embed every learned face with another model",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="the generation to make")
    add_replay_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    return run_interruptibly(replay(settings_from(arguments), arguments.name, arguments.rate))
