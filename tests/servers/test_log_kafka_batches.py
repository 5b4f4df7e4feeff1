"""Compressed batches on the real Kafka: every codec is read."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

from backends.kafka.log import KafkaLog
from backends.log import Consumer, NewRecord, Reader, Record, TopicPartition, TopicSpec
from bench.stores import admin_of
from tests.servers.topics import temporary_topics

CODECS = ("gzip", "snappy", "lz4", "zstd")
PATIENCE_S = 30.0
VALUES = [f"{number}".encode() * 1_000 for number in range(3)]
EVENTS = TopicPartition("events", 0)


@pytest.fixture
async def url(services: Mapping[str, str]) -> AsyncIterator[str]:
    async with temporary_topics(services) as url:
        yield url


@pytest.fixture
async def log(url: str) -> AsyncIterator[KafkaLog]:
    log = KafkaLog(url)
    yield log
    await log.close()


def server_and_prefix(url: str) -> tuple[str, str]:
    server, _, prefix = url.removeprefix("kafka://").partition("?prefix=")
    return server, prefix


@asynccontextmanager
async def foreign_producer(url: str, codec: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=server_and_prefix(url)[0], compression_type=codec)
    await producer.start()
    yield producer
    await producer.stop()


async def append_batch(url: str, codec: str, values: list[bytes], to: TopicPartition = EVENTS) -> None:
    """Appends records in one batch, as another system does."""
    async with foreign_producer(url, codec) as producer:
        batch = producer.create_batch()
        for value in values:
            assert batch.append(key=b"key", value=value, timestamp=None)
        await (await producer.send_batch(batch, server_and_prefix(url)[1] + to.topic, partition=to.partition))


async def drain(source: Consumer | Reader, count: int) -> list[Record]:
    records: list[Record] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} of {count} records came"
        records += await source.poll(100, 0.2)
    return records


async def read_twice(log: KafkaLog, count: int) -> list[bytes | None]:
    """The values as a consumer and a reader get them."""
    consumer = await log.consumer("group", ["events"], member="one")
    reader = await log.reader("events", at="start")
    polled, read = await drain(consumer, count), await drain(reader, count)
    assert polled == read
    return [record.value for record in read]


@pytest.mark.parametrize("codec", CODECS)
async def test_compressed_batches_of_other_producers_are_read(log: KafkaLog, url: str, codec: str) -> None:
    await log.create_topics([TopicSpec("events", 1)])
    await log.append([NewRecord("events", "key", b"first")])
    await append_batch(url, codec, VALUES)
    server, prefix = server_and_prefix(url)
    command = ["kcat", "-P", "-b", server, "-t", f"{prefix}events", "-p", "0", "-z", codec, "-K", ":"]
    text = "".join(f"key:{'x' * 5_000}{number}\n" for number in range(3)).encode()
    done = await asyncio.to_thread(subprocess.run, command, input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert await read_twice(log, 7) == [b"first", *VALUES, *(b"x" * 5_000 + b"%d" % number for number in range(3))]
    assert await log.oldest_uncommitted_ms("group", "events") is not None


@pytest.mark.parametrize("codec", CODECS)
async def test_our_own_records_are_read_from_a_topic_that_compresses(log: KafkaLog, url: str, codec: str) -> None:
    async with admin_of(url) as admin:
        name = server_and_prefix(url)[1] + "events"
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs={"compression.type": codec})])
    await log.create_topics([TopicSpec("events", 1)])
    await log.append([NewRecord("events", "key", value) for value in VALUES])
    assert await read_twice(log, 3) == VALUES
