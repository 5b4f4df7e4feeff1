"""The three stores that the settings name, opened and closed in one place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from backends.log import EventLog
from backends.objects import ObjectStore
from backends.open import open_log, open_objects, open_vectors
from backends.vectors import VectorStore
from facestream.config import Settings
from facestream.runtime.data_folder import make_data_folder, require_whole
from schemas.errors import Unavailable
from stream.erase.erasures import identity_record
from stream.generations import active_record, generation_record
from stream.topics import ERASURES, MODELS, TOPICS, topics
from weights.manifest import manifest

log = structlog.get_logger(__name__)

RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class Stores:
    log: EventLog
    objects: ObjectStore
    vectors: VectorStore


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """Opens the stores. Raises ConfigurationError if a URL or the data folder cannot be used."""
    make_data_folder(settings.data)
    require_whole(settings.data)
    async with AsyncExitStack() as stack:
        log_ = open_log(settings.log_url, {spec.name: spec.partitions for spec in TOPICS})
        stack.push_async_callback(log_.close)
        objects = open_objects(settings.objects_url)
        stack.push_async_callback(objects.close)
        vectors = open_vectors(settings.vectors_url)
        stack.push_async_callback(vectors.close)
        yield Stores(log_, objects, vectors)


async def create_stores(stores: Stores, keep_probes: float = 7.0) -> None:
    """Creates topics, bucket, tables and the first generation if they are missing; safe if several processes do it at
    once. Raises Unavailable, TopicMismatch.
    """
    await stores.log.create_topics(topics(keep_probes))
    await stores.objects.create()
    await stores.vectors.create()
    if not any((await stores.log.end_offsets(MODELS)).values()):
        first = manifest().generation(manifest().default_generation)
        await stores.log.append([generation_record(first), active_record(first.name)])
    if not any((await stores.log.end_offsets(ERASURES)).values()):
        await stores.log.append([identity_record()])


async def wait_for_stores(stores: Stores, stop: asyncio.Event, *, create_for: float | None = None) -> None:
    """Waits until topics, bucket and tables exist, or `stop` is set. Waits for servers that are not up yet.

    create_for: creates what is missing, for a system that keeps probes for this many days; None creates nothing. Raises
    TopicMismatch.
    """
    while not stop.is_set():
        try:
            if create_for is not None:
                await create_stores(stores, create_for)
            else:
                await stores.log.require_topics(TOPICS)
                await stores.objects.ping()
                await stores.vectors.ping()
            return
        except Unavailable as error:
            log.warning("waiting for the stores", reason=error.message)
            try:
                await asyncio.wait_for(stop.wait(), RETRY_S)
            except TimeoutError:
                continue
