"""A part of the real Kafka for each test."""

from collections.abc import AsyncIterator, Mapping

import pytest

from tests.servers.topics import temporary_topics


@pytest.fixture
async def url(services: Mapping[str, str]) -> AsyncIterator[str]:
    async with temporary_topics(services) as url:
        yield url
