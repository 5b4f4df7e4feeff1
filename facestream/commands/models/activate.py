"""`facestream models activate`: recognizes with another generation from now on."""

import argparse
import sys
from typing import Any

from facestream.admin.generation_changes import activate
from facestream.flags import STORES, add_settings, settings_from
from facestream.interrupt import run_interruptibly
from facestream.runtime.stores import open_stores
from facestream.runtime.system_state import follow_state
from facestream.terminal import log_warnings_only

DESCRIPTION = """\
Recognize with another generation from now on. Refused while its replay is not complete, or when it lacks a face
that the active generation has. The generation before still gets every learned face: activating it again is
instant.
"""


def add_parser(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "activate", help="recognize with another generation from now on", description=DESCRIPTION
    )
    parser.add_argument("name", metavar="NAME", help="a generation, see `facestream models list`")
    parser.add_argument("--force", action="store_true", help="even though it lacks faces")
    add_settings(parser, STORES)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    return run_interruptibly(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with open_stores(settings_from(arguments)) as stores, follow_state(stores.log) as state:
        before = state.generations.active.name
        await activate(stores, state.generations, arguments.name, force=arguments.force)
    print(f"'{arguments.name}' is active. Back: facestream models activate {before}", file=sys.stderr)
    return 0
