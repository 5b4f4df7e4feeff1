"""`facestream keys`: make, list and revoke API keys."""

import argparse
import asyncio
import time
from typing import Any

from backends.open import open_vectors
from backends.vectors import VectorStore
from facestream.config import Settings
from facestream.flags import add_settings, settings_from
from ingest.keys import SCOPES, create
from schemas.errors import ConfigurationError, NotFound
from schemas.names import normalised

DESCRIPTION = """\
On loopback no key is needed until one exists; from then on every request needs one, as the header x-api-key or as a Bearer token.
A key is shown once, when it is made; only its hash is stored. A running service knows a new or revoked key within two seconds.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "keys",
        help="make, list and revoke API keys",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    make = actions.add_parser("create", help="make a key and print it, this once")
    make.add_argument(
        "--scope", choices=SCOPES, required=True, help="recognize; learn: that, learning and listing; admin: everything"
    )
    make.add_argument(
        "--directory", metavar="D", help="only this directory, its files and faces (default: every directory)"
    )
    make.set_defaults(
        run=lambda arguments: asyncio.run(_create(settings_from(arguments), arguments.scope, arguments.directory))
    )
    listing = actions.add_parser("list", help="show the keys, without their secrets")
    listing.set_defaults(run=lambda arguments: asyncio.run(_list(settings_from(arguments))))
    revoke = actions.add_parser("revoke", help="make a key useless")
    revoke.add_argument("key_id", metavar="KEY_ID", help="as `facestream keys list` shows it")
    revoke.set_defaults(run=lambda arguments: asyncio.run(_revoke(settings_from(arguments), arguments.key_id)))
    for action in (make, listing, revoke):
        add_settings(action, ["data", "vectors"])


async def _create(settings: Settings, scope: str, directory: str | None) -> int:
    try:
        directory = normalised(directory) if directory is not None else None
    except ValueError as error:
        raise ConfigurationError(f"--directory: {error}") from None
    settings.data.mkdir(parents=True, exist_ok=True)
    vectors = open_vectors(settings.vectors_url)
    try:
        text = await new_key(vectors, scope, directory)
    finally:
        await vectors.close()
    print(text)
    return 0


async def new_key(vectors: VectorStore, scope: str, directory: str | None) -> str:
    """Makes a key; returns its text for the owner."""
    text, key = create(scope, directory)
    await vectors.put_api_key(key)
    return text


async def _list(settings: Settings) -> int:
    settings.data.mkdir(parents=True, exist_ok=True)
    vectors = open_vectors(settings.vectors_url)
    try:
        for key in await vectors.api_keys():
            made = time.strftime("%Y-%m-%d %H:%M", time.gmtime(key.created_at))
            print(
                f"{key.key_id}\t{key.scope}\t{key.directory if key.directory is not None else '(every directory)'}\t{made} UTC"
            )
    finally:
        await vectors.close()
    return 0


async def _revoke(settings: Settings, key_id: str) -> int:
    vectors = open_vectors(settings.vectors_url)
    try:
        if not await vectors.delete_api_key(key_id):
            raise NotFound(f"there is no key '{key_id}': see `facestream keys list`")
    finally:
        await vectors.close()
    return 0
