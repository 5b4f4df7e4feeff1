"""`facestream keys`: creates, lists and revokes API keys."""

import argparse
import time
from typing import Any

from backends.open import open_vectors
from backends.vectors import VectorStore
from facestream.admin.api_keys import new_key
from facestream.flags import add_settings, argument_type, settings_from
from facestream.interrupt import run_interruptibly
from facestream.runtime.data_folder import make_data_folder, require_whole
from facestream.terminal import print_rows
from ingest.keys import SCOPES
from schemas.errors import NotFound
from schemas.names import normalise_name

DESCRIPTION = """\
On loopback no key is needed until one exists; from then on every request needs one, as the header x-api-key or
as a Bearer token. A key is printed once, when it is created; only its hash is stored. A running service knows a
new or revoked key within two seconds.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "keys",
        help="create, list and revoke API keys",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    creating = actions.add_parser("create", help="create a key and print it once")
    creating.add_argument(
        "--scope",
        choices=SCOPES,
        required=True,
        help="recognize; learn: also learning, listing and erasing people; admin: everything",
    )
    creating.add_argument(
        "--directory",
        metavar="D",
        type=argument_type("--directory", normalise_name),
        help="only this directory, its files and faces (default: every directory)",
    )
    creating.set_defaults(act=_create)
    listing = actions.add_parser(
        "list",
        help="list the keys, without their secrets",
        description="List the keys, without their secrets: id, scope, directory, and when it was created.",
    )
    listing.add_argument("--json", action="store_true", help='JSON Lines; "directory" is null for every directory')
    listing.set_defaults(act=_list)
    revoking = actions.add_parser("revoke", help="revoke a key")
    revoking.add_argument("key_id", metavar="KEY_ID", help="as `facestream keys list` shows it")
    revoking.set_defaults(act=_revoke)
    for action in (creating, listing, revoking):
        add_settings(action, ["data", "vectors"])
        action.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    return run_interruptibly(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    make_data_folder(settings.data)
    require_whole(settings.data)
    vectors = open_vectors(settings.vectors_url)
    try:
        await arguments.act(vectors, arguments)
    finally:
        await vectors.close()
    return 0


async def _create(vectors: VectorStore, arguments: argparse.Namespace) -> None:
    print(await new_key(vectors, arguments.scope, arguments.directory))


async def _list(vectors: VectorStore, arguments: argparse.Namespace) -> None:
    every = None if arguments.json else "(every directory)"
    rows = [
        {
            "key_id": key.key_id,
            "scope": key.scope,
            "directory": every if key.directory is None else key.directory,
            "created": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(key.created_at)),
        }
        for key in await vectors.api_keys()
    ]
    print_rows(rows, as_json=arguments.json, whole=("key_id", "scope", "created"))


async def _revoke(vectors: VectorStore, arguments: argparse.Namespace) -> None:
    if not await vectors.delete_api_key(arguments.key_id):
        raise NotFound(f"there is no key '{arguments.key_id}': see `facestream keys list`")
