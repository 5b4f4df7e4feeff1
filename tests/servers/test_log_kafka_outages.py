"""A log on Kafka survives outages of its server: open readers, consumers and appends recover, and no acknowledged
record is lost.

These tests kill and pause the real server, so nothing else may use it meanwhile.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

import pytest

from backends.kafka.log import KafkaLog
from backends.log import CommittedOffset, Consumer, NewRecord, Reader, Record, TopicPartition, TopicSpec
from schemas.errors import Fenced, Unavailable
from scripts.services import Services
from tests.servers.topics import temporary_topics

PATIENCE_S = 60.0


@pytest.fixture
async def log(services: Mapping[str, str]) -> AsyncIterator[KafkaLog]:
    async with temporary_topics(services) as url:
        log = KafkaLog(url)
        await log.create_topics([TopicSpec("events", 4)])
        yield log
        await log.close()


class Load:
    """Appends one record after the other, each until it is acknowledged, from several tasks."""

    def __init__(self, log: KafkaLog, tasks: int = 8) -> None:
        self.acknowledged: list[str] = []
        self.refused = 0
        self._log = log
        self._stopping = False
        self._tasks = [asyncio.create_task(self._append(number)) for number in range(tasks)]

    async def _append(self, task: int) -> None:
        number = 0
        while not self._stopping:
            try:
                await self._log.append([NewRecord("events", f"{task}.{number}", b"x")])
            except Unavailable:
                self.refused += 1
                await asyncio.sleep(0.1)
            else:
                self.acknowledged.append(f"{task}.{number}")
                number += 1
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)


class Reading:
    """Polls all the time, as a worker does, and commits the records."""

    def __init__(self, source: Consumer | Reader) -> None:
        self.records: list[Record] = []
        self.source = source
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            try:
                records = await self.source.poll(100, 0.5)
                self.records += records
                if isinstance(self.source, Consumer) and records:
                    await self.source.commit(
                        {each.topic_partition: CommittedOffset(each.offset + 1) for each in records}
                    )
            except Unavailable:
                await asyncio.sleep(0.1)
            except Fenced:
                pass  # it reads them again

    async def until(self, keys: list[str]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not set(keys) <= {record.key for record in self.records}:
            assert not self._task.done(), self._task
            assert time.monotonic() < deadline, f"{len(self.records)} records for {len(keys)} keys"
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def offsets(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for record in self.records:
            found.setdefault(record.partition, []).append(record.offset)
        return found


@pytest.mark.stops_servers
async def test_readers_consumers_and_appends_continue_when_a_killed_server_is_back(
    log: KafkaLog, servers: Services
) -> None:
    consumer = Reading(await log.consumer("group", ["events"], member="one"))
    reader = Reading(await log.reader("events", at="start"))
    load = Load(log)
    await consumer.until([f"{task}.5" for task in range(8)])
    await asyncio.to_thread(servers.kill, "kafka")
    before = list(load.acknowledged)
    await asyncio.sleep(3)
    for use, within_s in ((log.ping(), 15.0), (log.append([NewRecord("events", "probe", b"")]), 30.0)):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await use
        assert time.monotonic() - began < within_s
    await asyncio.to_thread(servers.start, "kafka")
    await log.ping()
    deadline = time.monotonic() + PATIENCE_S
    while len(load.acknowledged) < len(before) + 100:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    await load.stop()
    await asyncio.gather(consumer.until(load.acknowledged), reader.until(load.acknowledged))
    await asyncio.gather(consumer.stop(), reader.stop())
    assert load.refused > 0
    ends = await log.end_offsets("events")
    for partition, offsets in reader.offsets().items():
        assert offsets == list(range(ends[partition]))  # in order, none twice, none skipped
    for partition, offsets in consumer.offsets().items():
        assert set(offsets) == set(range(ends[partition]))
    assert sum((await log.lag("group", "events")).values()) == 0


@pytest.mark.stops_servers
async def test_an_append_to_a_server_that_hangs_ends_in_time(log: KafkaLog, servers: Services) -> None:
    await log.append([NewRecord("events", "before", b"", "one")])
    consumer = await log.consumer("group", ["events"], member="one")
    while not consumer.assignment:
        await consumer.poll(1, 0.1)
    await asyncio.to_thread(servers.pause, "kafka")
    try:
        began = time.monotonic()
        outcomes = await asyncio.gather(
            *(log.append([NewRecord("events", f"{number}", b"", "one")]) for number in range(20)),
            return_exceptions=True,
        )
        assert time.monotonic() - began < PATIENCE_S
        assert all(isinstance(outcome, Unavailable) and "unknown" in outcome.message for outcome in outcomes)
        with pytest.raises(Unavailable):
            await consumer.poll(1, 2)  # longer than its session lasts it has heard nothing
        with pytest.raises(Unavailable):
            await log.ping()
    finally:
        await asyncio.to_thread(servers.resume, "kafka")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            await log.append([NewRecord("events", "after", b"", "one")])
            break
        except Unavailable:
            assert time.monotonic() < deadline
    keys: list[str] = []
    while "after" not in keys:
        assert time.monotonic() < deadline
        with suppress(Unavailable):
            keys += [record.key for record in await consumer.poll(100, 1)]
    # What was given up may have arrived, in its order, and never twice.
    given_up = [key for key in keys if key.isdecimal()]
    assert given_up == sorted(given_up, key=int)
    assert len(keys) == len(set(keys))
    at = TopicPartition("events", next(iter(consumer.assignment)).partition)
    await consumer.commit({at: CommittedOffset(0)})
