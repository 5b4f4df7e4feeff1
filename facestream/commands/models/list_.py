"""`facestream models list`: the generations, and which one is active."""

import argparse
from typing import Any

from facestream.flags import STORES, add_settings, settings_from
from facestream.interrupt import run_interruptibly
from facestream.runtime.stores import Stores, open_stores
from facestream.runtime.system_state import follow_state
from facestream.terminal import log_warnings_only, print_rows
from weights.manifest import manifest

DESCRIPTION = """\
List the generations: name, state, detector, embedder, dimension, number of faces, and whether it has a
threshold and a calibration. Shipped ones that are not in use yet come last.
"""


def add_parser(subcommands: Any) -> None:
    parser = subcommands.add_parser("list", help="list the generations", description=DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="JSON Lines")
    add_settings(parser, STORES)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    return run_interruptibly(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with open_stores(settings_from(arguments)) as stores, follow_state(stores.log) as state:
        generations = state.generations
        used = {it.name for it in generations.all}
        unused = [manifest().generation(name) for name in manifest().generations if name not in used]
        rows = [
            {
                "name": it.name,
                "state": "active" if it.name == generations.active.name else it.state if it.name in used else "shipped",
                "detector": it.detector,
                "embedder": it.embedder,
                "dimension": it.dimension,
                "faces": await _count_faces(stores, it.name),
                "threshold": it.threshold is not None,
                "calibration": it.calibration is not None,
            }
            for it in (*generations.all, *unused)
        ]
    print_rows(rows, as_json=arguments.json)
    return 0


async def _count_faces(stores: Stores, generation: str) -> int:
    count = 0
    for directory in await stores.vectors.directories(generation):
        async for page in stores.vectors.read_faces(directory, generation):
            count += len(page)
    return count
