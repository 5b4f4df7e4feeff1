"""A part of the real Kafka for one test: topics and groups with their own prefix."""

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from bench.stores import delete_topics


@asynccontextmanager
async def temporary_topics(services: Mapping[str, str]) -> AsyncIterator[str]:
    """The URL of the cluster with a new prefix; the topics made with it are deleted at the end."""
    prefix = f"test-{uuid.uuid4().hex[:12]}."
    url = services["FACESTREAM_LOG"]
    yield f"{url}?prefix={prefix}"
    await delete_topics(url, prefix)


def server_and_prefix(url: str) -> tuple[str, str]:
    """The address of the server and the prefix of the topics, for clients of other systems."""
    server, _, prefix = url.removeprefix("kafka://").partition("?prefix=")
    return server, prefix
