"""Appends to Kafka with an idempotent producer, within a bounded time.

aiokafka's producer retries a batch without limit, and once the servers have missed one batch, they refuse all later
ones. So a producer is replaced at its first failure: the next append gets a new one, and the old one may send the
records that it still holds for DRAIN_S before they are dropped.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from aiokafka import AIOKafkaProducer

from backends.kafka.connect import FAILURES, LARGEST_BATCH, KafkaServers, LazyClient
from backends.kafka.private_parts import drop_unsent
from backends.log import NewRecord, TopicPartition
from schemas.errors import Unavailable

APPEND_S = 10.0
# How long a replaced producer may take to send what it holds for other calls.
DRAIN_S = 5.0
# Unacknowledged bytes. A request has a batch for every partition, and Kafka refuses a request above 100 MB.
MOST_IN_FLIGHT = 32 << 20
BATCH_BYTES = 1 << 20


class RoutedRecord(NamedTuple):
    """A record to append and the partition it goes to."""

    record: NewRecord
    topic_partition: TopicPartition


class KafkaProducer:
    """Appends records, durable when a call returns."""

    def __init__(self, servers: KafkaServers) -> None:
        self._servers = servers
        self._producer: LazyClient[AIOKafkaProducer] = self._new()
        self._in_flight = 0
        self._in_flight_shrank = asyncio.Event()
        self._appends: set[asyncio.Future[None]] = set()
        self._stopping: set[asyncio.Task[None]] = set()
        self._closed = False

    def _new(self) -> LazyClient[AIOKafkaProducer]:
        return LazyClient(
            lambda: self._servers.producer(
                enable_idempotence=True,
                acks="all",
                linger_ms=0,
                max_batch_size=BATCH_BYTES,
                max_request_size=LARGEST_BATCH,
            )
        )

    async def append(self, records: Sequence[RoutedRecord]) -> None:
        if self._closed:
            raise Unavailable("the log is closed")
        ended = asyncio.get_running_loop().create_future()
        self._appends.add(ended)
        try:
            await self._append(records)
        finally:
            self._appends.remove(ended)
            ended.set_result(None)

    async def _append(self, records: Sequence[RoutedRecord]) -> None:
        producer = self._producer
        try:
            async with asyncio.timeout(APPEND_S):
                for part, size in _parts(records):
                    await self._reserve(size)
                    try:
                        await self._send(await producer(), part)
                    finally:
                        self._in_flight -= size
                        self._in_flight_shrank.set()
        except FAILURES as error:
            self._replace(producer)
            reason = self._servers.port_error("appending", error, "Write on the topic").message
            raise Unavailable(
                f"{reason}: whether {len(records)} records for '{records[0].topic_partition.topic}' were appended is"
                " unknown"
            ) from error

    async def _send(self, producer: AIOKafkaProducer, records: Sequence[RoutedRecord]) -> None:
        acknowledgements = []
        for record, topic_partition in records:
            partition = self._servers.to_cluster(topic_partition)
            # aiokafka sends no record with neither key nor value, although Kafka has such records.
            key = b"" if record.key is None and record.value is None else record.key_bytes
            acknowledgement = await producer.send(
                partition.topic,
                record.value,
                key,
                partition.partition,
                headers=list(record.headers),
            )
            acknowledgement.add_done_callback(_retrieve_error)
            acknowledgements.append(acknowledgement)
        await asyncio.wait(acknowledgements)
        for acknowledgement in acknowledgements:
            acknowledgement.result()

    async def _reserve(self, size: int) -> None:
        while self._in_flight and self._in_flight + size > MOST_IN_FLIGHT:
            self._in_flight_shrank.clear()
            await self._in_flight_shrank.wait()
        self._in_flight += size

    def _replace(self, producer: LazyClient[AIOKafkaProducer]) -> None:
        if self._producer is producer and producer.made is not None:
            self._producer = self._new()
            stopping = asyncio.create_task(_stop(producer.made))
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        self._closed = True
        if self._appends:
            await asyncio.wait(self._appends)
        self._replace(self._producer)
        if self._stopping:
            await asyncio.wait(self._stopping)


def _parts(records: Sequence[RoutedRecord]) -> Iterator[tuple[Sequence[RoutedRecord], int]]:
    """Splits the records, in their order, into parts that may be in flight at once, each with its size."""
    start = size = 0
    for index, record in enumerate(records):
        if index > start and size + record.record.size > MOST_IN_FLIGHT:
            yield records[start:index], size
            start, size = index, 0
        size += record.record.size
    yield records[start:], size


def _retrieve_error(acknowledgement: asyncio.Future[object]) -> None:
    """Retrieves the error of an append that was given up: asyncio logs errors that nobody retrieves."""
    if not acknowledgement.cancelled():
        acknowledgement.exception()


async def _stop(producer: AIOKafkaProducer) -> None:
    """Stops a producer. Drops the records that it has not sent within DRAIN_S.

    aiokafka's stop() alone would wait for ever until all are sent, although their callers have long received an error
    that says the outcome is unknown.
    """
    with suppress(TimeoutError):
        await asyncio.wait_for(producer.flush(), DRAIN_S)
    await drop_unsent(producer)
    with suppress(*FAILURES):
        await producer.stop()
