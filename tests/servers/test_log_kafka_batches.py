"""Batches of other producers on the real Kafka: every codec is read, and one that cannot be read stops its partition
until `facestream recover`.

Which batches cannot be read is tested in tests/unit/backends/test_log_kafka_batches.py.
"""

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

from backends.kafka import batches
from backends.kafka.log import KafkaLog
from backends.log import CommittedOffset, NewRecord, TopicPartition, TopicSpec
from bench.stores import admin_of
from facestream.cli import main
from schemas.errors import Unavailable
from stream.dead_letters import read_contents
from stream.topics import DEAD_LETTERS, RESULTS
from tests.polling import drain
from tests.servers.topics import server_and_prefix
from tests.unit.stream.stages import dead_letters

CODECS = ("gzip", "snappy", "lz4", "zstd")
PATIENCE_S = 30.0
VALUES = [f"{number}".encode() * 1_000 for number in range(3)]
EVENTS = TopicPartition("events", 0)


@pytest.fixture
async def log(url: str) -> AsyncIterator[KafkaLog]:
    log = KafkaLog(url)
    yield log
    await log.close()


@pytest.fixture
def logs_of_commands() -> Iterator[None]:
    yield
    structlog.reset_defaults()  # `main` sends the logs to the stderr of the moment


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


async def test_a_batch_that_cannot_be_read_stops_its_partition_and_no_other(
    log: KafkaLog, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "LARGEST_DECOMPRESSED", 10_000)
    await log.create_topics([TopicSpec("events", 2)])
    await append_batch(url, "zstd", [b"before"] * 2)
    await append_batch(url, "zstd", [b"x" * 4_000] * 3)
    await append_batch(url, "zstd", [b"after"])
    other = TopicPartition("events", 1)
    await append_batch(url, "zstd", [b"other"] * 2, other)
    consumer = await log.consumer("group", ["events"], member="one")
    with structlog.testing.capture_logs() as logs:
        assert sorted((it.partition, it.offset) for it in await drain(consumer, 4)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
        deadline = time.monotonic() + PATIENCE_S
        while not consumer.unreadable:
            assert await consumer.poll(10, 0.1) == []
            assert time.monotonic() < deadline
        for number in range(5):  # it stays so, and the other partition goes on at once
            await append_batch(url, "gzip", [b"more"], other)
            began = time.monotonic()
            assert [(it.partition, it.offset) for it in await consumer.poll(10, 60.0)] == [(1, 2 + number)]
            assert time.monotonic() - began < PATIENCE_S
    (batch,) = consumer.unreadable.values()
    assert consumer.unreadable.keys() == {EVENTS}
    assert (batch.first, batch.last) == (2, 4)
    (said,) = [it for it in logs if it["log_level"] == "error"]
    assert "facestream recover group" in said["event"]
    expected = {"topic": "events", "partition": 0, "first_offset": 2, "last_offset": 4, "cause": batch.cause}
    assert expected.items() <= said.items()
    assert "larger than 10,000 bytes" in batch.cause
    # The lag includes it, and the age is that of the other partition.
    await consumer.commit({EVENTS: CommittedOffset(2), other: CommittedOffset(6)})
    assert await log.lag("group", "events") == {0: 4, 1: 1}
    newest = await log.oldest_uncommitted_ms("group", "events")
    await consumer.commit({other: CommittedOffset(7)})
    assert newest is not None
    for _ in range(2):  # read, and remembered
        assert await log.oldest_uncommitted_ms("group", "events") is None
    # Behind the batch it goes on.
    await consumer.commit({EVENTS: CommittedOffset(5)})
    await consumer.close()
    consumer = await log.consumer("group", ["events"], member="one")
    assert [it.value for it in await drain(consumer, 1)] == [b"after"]
    assert consumer.unreadable == {}


async def test_a_reader_fails_at_a_batch_that_cannot_be_read(
    log: KafkaLog, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "LARGEST_DECOMPRESSED", 10_000)
    await log.create_topics([TopicSpec("events", 2)])
    await append_batch(url, "zstd", [b"before"])
    await append_batch(url, "zstd", [b"x" * 20_000])
    await append_batch(url, "zstd", [b"other"], TopicPartition("events", 1))
    reader = await log.reader("events", at="start")
    assert {it.value for it in await drain(reader, 2)} == {b"before", b"other"}
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"topic 'events', partition 0: .* offsets 1 to 1 cannot be read"):
            await drain(reader, 1)


async def test_recover_skips_a_batch_that_cannot_be_read_and_leaves_a_dead_letter(
    log: KafkaLog,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    logs_of_commands: None,
) -> None:
    monkeypatch.setattr(batches, "LARGEST_DECOMPRESSED", 10_000)
    await log.create_topics([TopicSpec(RESULTS, 3), TopicSpec(DEAD_LETTERS, 2)])
    stuck, later, fine = (TopicPartition(RESULTS, number) for number in range(3))
    await append_batch(url, "zstd", [b"x" * 4_000] * 3, stuck)
    await append_batch(url, "zstd", [b"after"], stuck)
    await append_batch(url, "zstd", [b"before"], later)
    await append_batch(url, "zstd", [b"x" * 4_000] * 3, later)
    await append_batch(url, "zstd", [b"fine"], fine)

    async def recover(*flags: str) -> tuple[int, str]:
        arguments = ["recover", "answers", *flags, "--log", url, "--data", str(tmp_path)]
        code = await asyncio.to_thread(main, arguments)
        return code, capsys.readouterr().out

    code, out = await recover()
    assert code == 1
    (line,) = out.splitlines()
    assert line.startswith(f"{RESULTS} partition 0: the batch of offsets 0 to 2 cannot be read: its zstd data")
    assert await log.lag("answers", RESULTS) == {0: 4, 1: 4, 2: 1}
    code, out = await recover("--yes", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["set"]
    assert [(it["partition"], it["first"], it["last"]) for it in said["unreadable"]] == [(0, 0, 2)]
    # What comes before or after such a batch is not skipped.
    assert await log.lag("answers", RESULTS) == {0: 1, 1: 4, 2: 1}
    [letter] = await dead_letters(log)
    failure = letter.failure
    assert (failure.topic, failure.partition, failure.offset, failure.stage) == (*stuck, 0, "answers")
    assert (letter.event, failure.code) == (None, "unreadable_record")
    assert [it.value for it in await read_contents(log, [letter])] == [None]
    assert "offsets 0 to 2 cannot be read" in failure.reason
    assert await recover() == (0, "nothing is missing: the group can go on\n")
