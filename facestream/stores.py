"""The three stores that the settings name, opened and closed in one place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from backends.log import EventLog, open_log
from backends.objects import ObjectStore, open_objects
from backends.vectors import VectorStore, open_vectors
from facestream.config import Settings
from schemas.errors import Unavailable
from stream.topics import TOPICS

log = structlog.get_logger(__name__)

AWAY_S = 2.0


@dataclass(frozen=True, slots=True)
class Stores:
    log: EventLog
    objects: ObjectStore
    vectors: VectorStore


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    async with AsyncExitStack() as stack:
        settings.data.mkdir(parents=True, exist_ok=True)
        log_ = open_log(settings.log_url)
        stack.push_async_callback(log_.close)
        objects = open_objects(settings.objects_url)
        stack.push_async_callback(objects.close)
        vectors = open_vectors(settings.vectors_url)
        stack.push_async_callback(vectors.close)
        yield Stores(log_, objects, vectors)


async def create(stores: Stores) -> None:
    """Topics, bucket and tables; safe when they are there, and when several do it at once. Raises Unavailable, TopicMismatch."""
    await stores.log.create_topics(TOPICS)
    await stores.objects.create()
    await stores.vectors.create()


async def patiently(stores: Stores, stop: asyncio.Event, *, create_them: bool) -> None:
    """Returns when everything is there, or `stop` is set: a server that is not up yet is waited for. Raises TopicMismatch."""
    while not stop.is_set():
        try:
            if create_them:
                await create(stores)
            else:
                await stores.log.require_topics(TOPICS)
                await stores.objects.ping()
                await stores.vectors.ping()
            return
        except Unavailable as error:
            log.warning("waiting for the stores", reason=error.message)
            try:
                await asyncio.wait_for(stop.wait(), AWAY_S)
            except TimeoutError:
                continue
