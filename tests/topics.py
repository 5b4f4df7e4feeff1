"""A part of the real Kafka for one test: topics and groups with a prefix of their own."""

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient


@asynccontextmanager
async def admin_of(url: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """The bare client of the cluster in a URL."""
    admin = AIOKafkaAdminClient(bootstrap_servers=url.removeprefix("kafka://").partition("?")[0])
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def temporary_topics(services: Mapping[str, str]) -> AsyncIterator[str]:
    """The URL of the cluster with a new prefix; the topics made with it are deleted at the end."""
    prefix = f"test-{uuid.uuid4().hex[:12]}."
    url = services["FACESTREAM_LOG"]
    yield f"{url}?prefix={prefix}"
    async with admin_of(url) as admin:
        if made := [topic for topic in await admin.list_topics() if topic.startswith(prefix)]:
            await admin.delete_topics(made)
