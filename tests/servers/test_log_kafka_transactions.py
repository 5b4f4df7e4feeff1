"""Transactions of other systems on the real Kafka: only committed records are read, and offsets without records, those
of aborted records and of markers, hold up nobody.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition as KafkaPartition

from backends.kafka.log import KafkaLog
from backends.log import CommittedOffset, Consumer, NewRecord, Record, TopicPartition, TopicSpec, partition_of
from bench.stores import admin_of
from schemas.errors import Unavailable
from stream import topic_reading
from stream.catch_up import wait_until_caught_up
from stream.topic_follower import TopicFollower
from stream.topic_reading import read_topic
from stream.topics import IMAGES_RECEIVED, MODELS
from stream.worker import Worker
from tests.polling import drain
from tests.servers.topics import server_and_prefix
from tests.unit.stream.stages import Stage, answered, image, running, send, statuses, until

EVENTS, OTHER = TopicPartition("events", 0), TopicPartition("events", 1)
PATIENCE_S = 30.0


@pytest.fixture
async def log(url: str) -> AsyncIterator[KafkaLog]:
    log = KafkaLog(url)
    await log.create_topics([TopicSpec("events", 2)])
    yield log
    await log.close()


class Transactions:
    """Another system that appends in transactions."""

    def __init__(self, producer: AIOKafkaProducer, prefix: str) -> None:
        self._producer, self._prefix = producer, prefix

    async def begin(self, *values: bytes, to: TopicPartition = EVENTS) -> None:
        await self._producer.begin_transaction()
        await self.append(*values, to=to)

    async def append(self, *values: bytes, to: TopicPartition = EVENTS) -> None:
        for value in values:
            await self._producer.send_and_wait(self._prefix + to.topic, value, key=value[:99], partition=to.partition)

    async def commit(self) -> None:
        await self._producer.commit_transaction()

    async def abort(self) -> None:
        await self._producer.abort_transaction()


@pytest.fixture
async def transactions(url: str) -> AsyncIterator[Transactions]:
    server, prefix = server_and_prefix(url)
    producer = AIOKafkaProducer(bootstrap_servers=server, transactional_id=f"{prefix}other")
    await producer.start()
    yield Transactions(producer, prefix)
    await producer.stop()


@asynccontextmanager
async def joined(log: KafkaLog) -> AsyncIterator[Consumer]:
    consumer = await log.consumer("group", ["events"], member="one")
    while not consumer.assignment:
        await consumer.poll(1, 0.1)
    yield consumer
    await consumer.close()


async def moved(consumer: Consumer, at: TopicPartition, offset: int) -> list[Record]:
    """Polls until the next poll continues at this offset. Returns what was polled."""
    records: list[Record] = []
    deadline = time.monotonic() + PATIENCE_S
    while consumer.next_offsets()[at] < offset:
        assert time.monotonic() < deadline, consumer.next_offsets()
        records += await consumer.poll(100, 0.1)
    assert consumer.next_offsets()[at] == offset
    return records


async def test_only_committed_records_are_read(log: KafkaLog, transactions: Transactions) -> None:
    await transactions.begin(b"one", b"two")
    await transactions.commit()  # offset 2 is its marker
    await transactions.begin(b"aborted", b"aborted too")
    await transactions.abort()  # 5
    await log.append([NewRecord("events", "key", b"ours", "b")])  # in partition 1
    await transactions.begin(b"three", b"other", to=EVENTS)
    await transactions.append(b"four", to=OTHER)
    await transactions.commit()
    async with joined(log) as consumer:
        reader = await log.reader("events", at="start")
        for source in (consumer, reader):
            found = await drain(source, 6)
            assert [(it.offset, it.value) for it in found if it.partition == 0] == [
                (0, b"one"),
                (1, b"two"),
                (6, b"three"),
                (7, b"other"),
            ]
            assert [it.value for it in found if it.partition == 1] == [b"ours", b"four"]
        await reader.close()


async def test_markers_and_aborted_records_at_the_end_are_no_lag(log: KafkaLog, transactions: Transactions) -> None:
    await transactions.begin(b"one")
    await transactions.commit()
    await transactions.begin(b"aborted")
    await transactions.abort()
    await transactions.begin(b"aborted", to=OTHER)  # this partition has no record at all
    await transactions.abort()
    ends = await log.end_offsets("events")
    assert ends == {0: 4, 1: 2}
    oldest = await log.oldest_uncommitted_ms("group", "events")
    assert oldest is not None
    assert abs(oldest - time.time() * 1000) < 60_000
    async with joined(log) as consumer:
        [record] = await moved(consumer, EVENTS, 4)
        assert record.value == b"one"
        assert await moved(consumer, OTHER, 2) == []
        # Nothing waits, whether or not the group has passed them.
        await consumer.commit({EVENTS: CommittedOffset(1)})
        for _ in range(2):
            assert await log.oldest_uncommitted_ms("group", "events") is None
        await consumer.commit({at: CommittedOffset(it) for at, it in consumer.next_offsets().items()})
    assert await log.lag("group", "events") == {0: 0, 1: 0}
    assert await log.group_offsets("group", "events") == ends
    # A later record is seen, and its age.
    await transactions.begin(b"two")
    await transactions.commit()
    assert await log.oldest_uncommitted_ms("group", "events") is not None
    async with joined(log) as consumer:
        [record] = await moved(consumer, EVENTS, 6)
        assert (record.offset, record.value) == (4, b"two")


async def test_an_open_transaction_holds_back_its_partition_and_no_other(
    log: KafkaLog, transactions: Transactions
) -> None:
    keys = {partition_of(key, 2): key for key in "abcdefgh"}
    await log.append([NewRecord("events", "before", b"", keys[0]), NewRecord("events", "before too", b"", keys[1])])
    assert await log.held_offsets("events") == {}
    await transactions.begin(b"held", to=OTHER)
    await log.append([NewRecord("events", "behind", b"", keys[1]), NewRecord("events", "other", b"", keys[0])])
    assert await log.held_offsets("events") == {1: 1}
    async with joined(log) as consumer:
        assert sorted(it.key for it in await drain(consumer, 3)) == ["before", "before too", "other"]
        assert await consumer.poll(10, 1.0) == []
        assert consumer.next_offsets()[OTHER] == 1
        await consumer.commit({at: CommittedOffset(it) for at, it in consumer.next_offsets().items()})
        assert await log.lag("group", "events") == {0: 0, 1: 0}
        assert await log.oldest_uncommitted_ms("group", "events") is None
        await transactions.commit()
        assert [it.key for it in await drain(consumer, 2)] == ["held", "behind"]
    assert await log.held_offsets("events") == {}


class Follower(TopicFollower):
    def __init__(self, log: KafkaLog) -> None:
        super().__init__(log, MODELS)
        self.values: list[bytes | None] = []

    def apply(self, record: Record) -> None:
        self.values.append(record.value)


async def test_topics_are_read_to_their_end_although_markers_are_last(
    log: KafkaLog, transactions: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.create_topics([TopicSpec(MODELS, 1, compacted=True)])
    models = TopicPartition(MODELS, 0)
    await transactions.begin(b"one", to=models)
    await transactions.commit()
    follower = Follower(log)
    async with asyncio.timeout(PATIENCE_S):
        await follower.start()
        assert follower.values == [b"one"]
        await transactions.begin(b"aborted", to=models)
        await transactions.abort()
        await follower.refresh()
    assert follower.values == [b"one"]
    await follower.close()
    found: list[Record] = []
    async with asyncio.timeout(topic_reading.PATIENCE_S - 1):
        await read_topic(log, MODELS, found.extend)
    assert [it.value for it in found] == [b"one"]
    # What cannot be read now is an error: a search must not pass over it.
    monkeypatch.setattr(topic_reading, "PATIENCE_S", 1.0)
    await transactions.begin(b"open", to=models)
    with pytest.raises(Unavailable, match=r"'models', partition 0, cannot be read beyond offset 4"):
        await read_topic(log, MODELS, lambda _: None)
    await transactions.commit()


def worker(log: KafkaLog, stage: Stage) -> Worker:
    return Worker(log, stage, [IMAGES_RECEIVED], member="one", max_in_flight=10)


async def test_a_worker_passes_markers_and_what_was_aborted_and_is_still_there_after_retention(
    images: KafkaLog, transactions: Transactions, url: str
) -> None:
    at = TopicPartition(IMAGES_RECEIVED, 0)
    learned, never = (image(name).encode() for name in ("learned", "aborted"))
    await transactions.begin(learned, to=at)
    await transactions.commit()
    await transactions.begin(never, to=at)
    await transactions.abort()
    await transactions.begin(never, to=TopicPartition(IMAGES_RECEIVED, 1))
    await transactions.abort()
    ends = await images.end_offsets(IMAGES_RECEIVED)
    assert ends == {0: 4, 1: 2}
    stage = Stage()
    async with running(worker(images, stage)), asyncio.timeout(PATIENCE_S):
        await wait_until_caught_up(images, "stage", IMAGES_RECEIVED)
    assert await answered(images) == statuses("learned")
    assert await images.group_offsets("stage", IMAGES_RECEIVED) == ends  # as Kafka's own tools count the lag
    # Retention deletes all of it: the group continues behind the last marker.
    _, prefix = server_and_prefix(url)
    async with admin_of(url) as admin:
        await admin.delete_records(
            {KafkaPartition(prefix + IMAGES_RECEIVED, each): RecordsToDelete(end) for each, end in ends.items()}
        )
    assert await images.start_offsets(IMAGES_RECEIVED) == ends
    await send(images, "later")
    stage = Stage()
    async with running(worker(images, stage)):
        await until(lambda: stage.handled == ["later"])


async def test_markers_in_a_compacted_topic_are_passed(log: KafkaLog, transactions: Transactions, url: str) -> None:
    """The cleaner removes records and, later, markers too. What is left of a batch may be its header alone."""
    _, prefix = server_and_prefix(url)
    settings = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.01",
        "segment.ms": "500",
        "delete.retention.ms": "0",
    }
    async with admin_of(url) as admin:
        await admin.create_topics([NewTopic(f"{prefix}changes", 1, 1, topic_configs=settings)])
    at = TopicPartition("changes", 0)
    for number in range(3):
        await transactions.begin(b"same key", b"same key", b"aborted %d" % number, to=at)
        await (transactions.abort() if number == 1 else transactions.commit())
        await asyncio.sleep(0.6)  # a segment that is not the active one may be cleaned
    reader_deadline = time.monotonic() + PATIENCE_S
    while True:
        reader = await log.reader("changes", at="start")
        found: list[Record] = []
        while reader.next_offsets()[0] < 12:
            assert time.monotonic() < reader_deadline
            found += await reader.poll(100, 0.2)
        await reader.close()
        if len(found) < 6:
            break
        await asyncio.sleep(0.5)
    assert [it.offset for it in found if it.value == b"same key"][-1] == 9
    assert all(it.value != b"aborted 1" for it in found)
    assert await log.oldest_uncommitted_ms("group", "changes") is not None
