"""`facestream models`: the generations of models, and which one is active."""

import argparse
import asyncio
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from facestream.admin.generation_changes import activate, retire
from facestream.commands.models import add as models_add
from facestream.commands.models import compare
from facestream.flags import add_settings, settings_from
from facestream.runtime.stores import Stores, open_stores
from facestream.runtime.system_state import SystemState, follow_state
from facestream.terminal import log_warnings_only
from weights.manifest import manifest

DESCRIPTION = """\
A generation is a detector and an embedder, with every learned face embedded by them. A better model replaces another without a
minute of downtime:

  facestream models add mine model.onnx --input 112 --template arcface --range=-1..1
  facestream reembed mine
  facestream models compare dlib-resnet29-mirror mine
  facestream models activate mine
  facestream models activate dlib-resnet29-mirror     back at once, nothing lost
  facestream models retire dlib-resnet29-mirror       its vectors are deleted
"""
STORES = ("log", "objects", "vectors", "data")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "models",
        help="list, add, compare, activate and retire models",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subcommands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    listing = subcommands.add_parser("list", help="show the generations")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    add_settings(listing, STORES)
    listing.set_defaults(run=run, action=_list)
    models_add.add_parser(subcommands)
    compare.add_parser(subcommands)
    activating = subcommands.add_parser(
        "activate",
        help="recognize with another generation from now on",
        description="Recognize with another generation from now on. Refused while its replay is not complete, or when it lacks a"
        " face that the active one has. The one before still gets every learn: activating it again is instant.",
    )
    activating.add_argument("name", metavar="NAME")
    activating.add_argument("--force", action="store_true", help="even though it lacks faces")
    add_settings(activating, STORES)
    activating.set_defaults(run=run, action=_activate)
    retiring = subcommands.add_parser(
        "retire",
        help="delete a generation's vectors",
        description="Delete a generation's vectors. Its name is never used again.",
    )
    retiring.add_argument("name", metavar="NAME")
    add_settings(retiring, STORES)
    retiring.set_defaults(run=run, action=_retire)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with open_stores(settings_from(arguments)) as stores, follow_state(stores.log) as state:
        await arguments.action(stores, state, arguments)
    return 0


async def _list(stores: Stores, state: SystemState, arguments: argparse.Namespace) -> None:
    generations = state.generations
    used = {it.name for it in generations.all}
    printable = [
        *generations.all,
        *(manifest().generation(name) for name in manifest().generations if name not in used),
    ]
    rows = [
        {
            "name": it.name,
            "state": "active" if it.name == generations.active.name else it.state if it.name in used else "shipped",
            "detector": it.detector,
            "embedder": it.embedder,
            "dimension": it.dimension,
            "faces": await _faces(stores, it.name),
            "threshold": it.threshold is not None,
            "calibration": it.calibration is not None,
        }
        for it in printable
    ]
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
        return
    table = Table(box=None)
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(("yes" if it else "no") if isinstance(it, bool) else f"{it}" for it in row.values()))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


async def _faces(stores: Stores, generation: str) -> int:
    count = 0
    for directory in await stores.vectors.directories(generation):
        async for page in stores.vectors.read_faces(directory, generation):
            count += len(page)
    return count


async def _activate(stores: Stores, state: SystemState, arguments: argparse.Namespace) -> None:
    before = state.generations.active.name
    await activate(stores, state.generations, arguments.name, force=arguments.force)
    print(f"'{arguments.name}' is active. Back: facestream models activate {before}", file=sys.stderr)


async def _retire(stores: Stores, state: SystemState, arguments: argparse.Namespace) -> None:
    deleted = await retire(stores, state.generations, arguments.name)
    print(f"'{arguments.name}' is retired: {deleted} vectors deleted", file=sys.stderr)
