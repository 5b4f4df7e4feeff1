"""A part of the real Kafka for each test."""

from collections.abc import AsyncIterator, Mapping

import pytest

from backends.kafka.log import KafkaLog
from backends.log import TopicSpec
from stream.topics import DEAD_LETTERS, IMAGES_RECEIVED, RESULTS
from tests.servers.topics import temporary_topics


@pytest.fixture
async def url(services: Mapping[str, str]) -> AsyncIterator[str]:
    async with temporary_topics(services) as url:
        yield url


@pytest.fixture
async def images(url: str) -> AsyncIterator[KafkaLog]:
    """A log with the topics of a stage that reads images, two partitions each."""
    log = KafkaLog(url)
    await log.create_topics([TopicSpec(name, 2) for name in (IMAGES_RECEIVED, RESULTS, DEAD_LETTERS)])
    yield log
    await log.close()
