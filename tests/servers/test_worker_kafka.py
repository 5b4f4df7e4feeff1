"""A worker on the real Kafka whose process is killed."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping

import pytest

from backends.kafka.log import KafkaLog
from backends.log import EventLog, TopicSpec
from schemas.records import DeadLetter
from stream.topics import DEAD_LETTERS, IMAGES_RECEIVED, RESULTS
from tests.conftest import ROOT
from tests.servers.topics import temporary_topics
from tests.unit.stream.stages import answered, read_all, send, statuses

CHILD = ROOT / "tests" / "unit" / "stream" / "crashing_worker.py"
PATIENCE_S = 90.0


@pytest.fixture
async def url(services: Mapping[str, str]) -> AsyncIterator[str]:
    async with temporary_topics(services) as url:
        yield url


@pytest.fixture
async def kafka(url: str) -> AsyncIterator[EventLog]:
    log = KafkaLog(url)
    await log.create_topics([TopicSpec(name, 2) for name in (IMAGES_RECEIVED, RESULTS, DEAD_LETTERS)])
    yield log
    await log.close()


async def test_a_record_that_kills_is_a_dead_letter_after_three_more_attempts(kafka: EventLog, url: str) -> None:
    """At first, the records are handled side by side. After the kill, the worker tries each of them alone."""
    names = [f"{number}" for number in range(6)] + ["killer", *(f"{number}" for number in range(6, 10))]
    await send(kafka, *names)
    command = [sys.executable, str(CHILD), url, "killer", "unordered"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    exits = []
    while 0 not in exits:
        done = await asyncio.to_thread(subprocess.run, command, env=environment, timeout=PATIENCE_S)
        exits.append(done.returncode)
        assert len(exits) < 8
    assert exits == [-9, -9, -9, -9, 0]
    assert await answered(kafka) == statuses(*names) | statuses("killer", status=500)
    [record] = await read_all(kafka, DEAD_LETTERS)
    assert record.value is not None
    letter = DeadLetter.decode(record.value)
    assert (letter.code, letter.attempts) == ("processing_failed", 3)
