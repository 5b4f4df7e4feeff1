"""`facestream models retire`: deletes the vectors of a generation."""

import argparse
import sys
from typing import Any

from facestream.admin.generation_changes import retire
from facestream.flags import STORES, add_settings, settings_from
from facestream.interrupt import run_interruptibly
from facestream.runtime.stores import open_stores
from facestream.runtime.system_state import follow_state
from facestream.terminal import log_warnings_only


def add_parser(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "retire",
        help="delete a generation's vectors",
        description="Delete a generation's vectors. Its name cannot be used again.",
    )
    parser.add_argument("name", metavar="NAME", help="a generation that is not active")
    add_settings(parser, STORES)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    return run_interruptibly(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with open_stores(settings_from(arguments)) as stores, follow_state(stores.log) as state:
        deleted = await retire(stores, state.generations, arguments.name)
    print(f"'{arguments.name}' is retired: {deleted} vectors deleted", file=sys.stderr)
    return 0
