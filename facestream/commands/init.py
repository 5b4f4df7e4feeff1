"""`facestream init`: creates what the roles need on the servers."""

import argparse
import asyncio
import sys
from typing import Any

from facestream.admin.api_keys import new_key
from facestream.flags import STORES, add_settings, argument_type, parse_number, parse_text, settings_from
from facestream.interrupt import run_interruptibly
from facestream.runtime.stores import Stores, create_stores, open_stores, wait_for_stores
from facestream.terminal import print_message
from schemas.errors import ConfigurationError
from stream.erase.erasures import identity_record
from stream.unused_partitions import describe_unused_partitions

DESCRIPTION = """\
Create topics, bucket, keyspace and tables; those that exist stay. Run it once before the roles, and again after
an update. Several may run at once.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("init", help="create topics, bucket and tables", description=DESCRIPTION)
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=argument_type("--wait", parse_number),
        default=60.0,
        help="how long to wait for servers that are not up yet (default: 60)",
    )
    parser.add_argument(
        "--key", action="store_true", help="where no API key exists, create one with the scope admin and print it"
    )
    parser.add_argument(
        "--bucket-events",
        metavar="TARGET",
        nargs="?",
        const="FACESTREAM",
        type=argument_type("--bucket-events", parse_text),
        help="have the bucket announce what is put below incoming/ to this Kafka target of MinIO (default: FACESTREAM);"
        " see docs/events.md",
    )
    parser.add_argument(
        "--restored",
        action="store_true",
        help="the log was restored from a copy, and its offsets have begun anew: erasures of the former log then refuse"
        " no image of this one",
    )
    add_settings(parser, (*STORES, "keep_probes"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    return run_interruptibly(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    async with open_stores(settings) as stores:
        try:
            async with asyncio.timeout(arguments.wait):
                await wait_for_stores(stores, asyncio.Event(), create_for=settings.keep_probes)
        except TimeoutError:
            await create_stores(stores, settings.keep_probes)  # its error names the server that is unavailable
        print("topics, bucket and tables exist", file=sys.stderr)
        for topic, text in (await describe_unused_partitions(stores.log)).items():
            print_message(f"{topic}: {text}")
        if arguments.restored:
            await stores.log.append([identity_record()])
            print("the log has a new id", file=sys.stderr)
        if arguments.bucket_events is not None:
            await _announce_incoming(stores, arguments.bucket_events)
        if arguments.key:
            await _first_key(stores)
    return 0


async def _announce_incoming(stores: Stores, target: str) -> None:
    from backends.s3.objects import S3Objects  # minio is not needed for a folder

    if not isinstance(stores.objects, S3Objects):
        raise ConfigurationError("--bucket-events is for a bucket on MinIO: for a folder there is `facestream watch`")
    await stores.objects.announce_incoming(target)
    print("what is put below incoming/ is announced", file=sys.stderr)


async def _first_key(stores: Stores) -> None:
    if await stores.vectors.api_keys():
        print("an API key exists already: facestream keys list", file=sys.stderr)
        return
    text = await new_key(stores.vectors, "admin", None)
    print("the first API key, printed once (scope admin):", file=sys.stderr)
    print(text)
