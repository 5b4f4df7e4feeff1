"""`facestream models compare OLD NEW`: measures two generations on the learned faces, and shows where they differ."""

import argparse
from typing import Any

from facestream.admin.comparison import compare_generations
from facestream.admin.comparison_report import print_comparison
from facestream.flags import STORES, add_settings, argument_type, parse_path, settings_from
from facestream.interrupt import run_interruptibly
from facestream.runtime.stores import open_stores
from facestream.runtime.system_state import follow_state
from facestream.terminal import log_warnings_only
from schemas.errors import ConfigurationError
from schemas.names import normalise_name

DESCRIPTION = """\
Match each learned face against all others of its directory, as if it had just come as a probe, once in each
generation. The faces of people with two portraits or more show how often the right person is found. The
similarity to the best-matching other person shows how strangers would fare.

  facestream models compare dlib-resnet29-mirror mine
  facestream models compare dlib-resnet29-mirror mine --directory demo --sheet differences.jpg

Only faces that both generations have are compared; the others are counted. It works beside a running service
and changes nothing.
"""


def add_parser(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "compare",
        help="measure two generations on the learned faces",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", metavar="OLD", help="a generation, see `facestream models list`")
    parser.add_argument("new", metavar="NEW", help="another generation")
    parser.add_argument(
        "--directory",
        metavar="D",
        type=argument_type("--directory", normalise_name),
        help="only this directory (default: all)",
    )
    parser.add_argument(
        "--sheet",
        type=argument_type("--sheet", parse_path),
        metavar="FILE.jpg",
        help="draw the faces where the two differ",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, with every difference")
    add_settings(parser, STORES)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    return run_interruptibly(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    from facestream.admin.comparison_sheet import check_target, draw_sheet  # aiohttp is slow to import

    if arguments.sheet is not None:
        check_target(arguments.sheet)
    if arguments.old == arguments.new:
        raise ConfigurationError(f"OLD and NEW are both '{arguments.old}': compare two generations")
    async with open_stores(settings_from(arguments)) as stores:
        async with follow_state(stores.log) as state:
            old, new = state.generations.get(arguments.old), state.generations.get(arguments.new)
        comparison = await compare_generations(stores.vectors, old, new, arguments.directory)
        print_comparison(comparison, as_json=arguments.json)
        if arguments.sheet is not None:
            await draw_sheet(stores.objects, comparison.differences, (old.name, new.name), arguments.sheet)
    return 0
