"""Records of confluent-kafka, which is librdkafka, are read here as they were sent, and the reverse."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Message, Producer
from confluent_kafka.admin import AdminClient

from backends.kafka.log import KafkaLog
from backends.log import CommittedOffset, NewRecord, Record, TopicPartition, TopicSpec, partition_of
from tests.polling import PATIENCE_S, drain
from tests.servers.topics import server_and_prefix

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
PARTITIONS = 4
Sent = tuple[bytes | None, bytes | None, list[tuple[str, str | bytes | None]]]  # key, value and headers
SENT: list[Sent] = [
    (b"key", b"value", []),
    (None, b"without a key", []),
    (b"key", None, []),
    (b"", b"", [("ce_id", b"\xff"), ("ce_id", b""), ("é", None)]),
    (b"\xff", b"x" * 500_000, [("content-type", b"application/json")]),
    ("💙".encode(), bytes(range(256)), [("", b"no name")]),
]
READ = [
    ("key", b"value", ()),
    (None, b"without a key", ()),
    ("key", None, ()),
    ("", b"", (("ce_id", b"\xff"), ("ce_id", b""), ("é", None))),
    (b"\xff", b"x" * 500_000, (("content-type", b"application/json"),)),
    ("💙", bytes(range(256)), (("", b"no name"),)),
]


@pytest.fixture
async def log(url: str) -> AsyncIterator[KafkaLog]:
    log = KafkaLog(url)
    await log.create_topics([TopicSpec("events", PARTITIONS), TopicSpec("events-1", 1)])
    yield log
    await log.close()


def producer_of(url: str, **settings: str | bool) -> Producer:
    """settings: with '_' for '.'."""
    named: dict[str, str | bool] = {name.replace("_", "."): value for name, value in settings.items()}
    return Producer({"bootstrap.servers": server_and_prefix(url)[0], **named})


def send(producer: Producer, topic: str, records: Sequence[Sent]) -> None:
    failed: list[object] = []

    def delivered(error: object, message: Message) -> None:
        failed.extend([error] if error is not None else [])

    for key, value, headers in records:
        producer.produce(topic, value, key, headers=headers, on_delivery=delivered)
    assert producer.flush(PATIENCE_S) == 0
    assert failed == []


@contextmanager
def consumer_of(url: str, group: str, topic: str) -> Iterator[Consumer]:
    server, prefix = server_and_prefix(url)
    settings = {"bootstrap.servers": server, "group.id": prefix + group, "auto.offset.reset": "earliest"}
    consumer = Consumer({**settings, "enable.auto.commit": False})
    try:
        consumer.subscribe([prefix + topic])
        yield consumer
    finally:
        consumer.close()


def receive(consumer: Consumer, count: int) -> list[Message]:
    deadline = time.monotonic() + PATIENCE_S
    messages: list[Message] = []
    while len(messages) < count:
        assert time.monotonic() < deadline, f"{len(messages)} of {count} records came"
        if (message := consumer.poll(0.2)) is not None:
            assert message.error() is None
            messages.append(message)
    return messages


async def read(log: KafkaLog, topic: str, count: int) -> list[Record]:
    """The records as a consumer and a reader get them."""
    consumer = await log.consumer("group", [topic], member="one")
    reader = await log.reader(topic, at="start")
    polled, read = await drain(consumer, count), await drain(reader, count)
    assert set(polled) == set(read)
    return read


@pytest.mark.parametrize("codec", CODECS)
async def test_records_of_confluent_kafka_are_read_as_they_were_sent(log: KafkaLog, url: str, codec: str) -> None:
    before = int(time.time() * 1000)
    producer = producer_of(url, compression_type=codec, enable_idempotence=True)
    await asyncio.to_thread(send, producer, server_and_prefix(url)[1] + "events-1", SENT)
    records = await read(log, "events-1", len(SENT))
    assert [(it.original_key, it.value, it.headers) for it in records] == READ
    assert [it.offset for it in records] == list(range(len(SENT)))
    assert all(before - 60_000 < it.timestamp < before + 60_000 for it in records)


async def test_confluent_kafka_sends_a_key_to_the_partition_that_it_has_here(log: KafkaLog, url: str) -> None:
    keys = ["acme", "é", "💙", *map(str, range(50))]
    sent: list[Sent] = [(key.encode(), b"", []) for key in keys]
    await asyncio.to_thread(send, producer_of(url), server_and_prefix(url)[1] + "events", sent)
    records = await read(log, "events", len(keys))
    assert {it.key: it.partition for it in records} == {key: partition_of(key, PARTITIONS) for key in keys}


async def test_only_committed_transactions_of_confluent_kafka_are_read(log: KafkaLog, url: str) -> None:
    topic = server_and_prefix(url)[1] + "events-1"

    def transact() -> None:
        producer = producer_of(url, transactional_id=f"{topic}.one")
        producer.init_transactions()
        for value, end in ((b"1", "commit"), (b"2", "abort"), (b"3", "commit")):
            producer.begin_transaction()
            send(producer, topic, [(b"key", value, [])])
            producer.commit_transaction() if end == "commit" else producer.abort_transaction()

    await asyncio.to_thread(transact)
    assert [it.value for it in await read(log, "events-1", 2)] == [b"1", b"3"]


async def test_our_records_are_read_by_confluent_kafka_as_they_were_appended(log: KafkaLog, url: str) -> None:
    values = [b"", None, bytes(range(256)), b"x" * 5_000_000]
    headers = [("ce_id", b"\xff"), ("ce_id", b""), ("é", None)]
    appended = [
        NewRecord("events", key, value, headers=headers if value else ())
        for key in ("acme", "💙", b"\xff")
        for value in values
    ]
    placed = await log.append(appended)

    def consume() -> list[Message]:
        with consumer_of(url, "theirs", "events") as consumer:
            return receive(consumer, len(appended))

    messages = await asyncio.to_thread(consume)
    found = {(it.partition(), it.key(), it.value(), tuple(it.headers() or ())) for it in messages}
    assert found == {
        (at.partition, it.key_bytes, it.value, tuple(it.headers)) for it, at in zip(appended, placed, strict=True)
    }
    for partition in {it.partition() for it in messages}:
        offsets = [it.offset() for it in messages if it.partition() == partition]
        assert offsets == list(range(len(offsets)))


async def test_what_we_have_committed_is_what_confluent_kafka_sees(log: KafkaLog, url: str) -> None:
    """Without a note: confluent-kafka 2.16.1 reads past the end of an offset's metadata, now and then."""
    server, prefix = server_and_prefix(url)
    await log.append([NewRecord("events-1", "key", b"%d" % number) for number in range(3)])
    consumer = await log.consumer("group", ["events-1"], member="one")
    await drain(consumer, 3)
    await consumer.commit({TopicPartition("events-1", 0): CommittedOffset(2)})
    await consumer.close()

    def committed() -> list[int]:
        admin = AdminClient({"bootstrap.servers": server})  # without a name it would end before it has answered
        [future] = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(f"{prefix}group")]).values()
        return [it.offset for it in future.result(PATIENCE_S).topic_partitions]

    assert await asyncio.to_thread(committed) == [2]
