"""Appending to Kafka: an idempotent producer, replaced when it can no longer be trusted, and a bounded wait.

aiokafka's producer tries a batch again without end, and once the servers have missed one they refuse all that follow.
So the first failure ends it: what it still holds is sent or given up, and the next append has a new producer.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from aiokafka import AIOKafkaProducer

from backends.kafka.connect import AWAY, LARGEST_BATCH, KafkaServers, Lazily
from backends.log import NewRecord, TopicPartition
from schemas.errors import Unavailable

APPEND_S = 10.0
# How long a producer that is replaced may take to send what it holds for others.
DRAIN_S = 5.0
# Unacknowledged bytes: a request carries a batch of every partition, and the servers refuse one above 100 MB.
MOST_IN_FLIGHT = 32 << 20
BATCH_BYTES = 1 << 20


class Placed(NamedTuple):
    """A record to append and the partition it goes to."""

    record: NewRecord
    at: TopicPartition

    @property
    def size(self) -> int:
        return len(self.record.key) + len(self.record.value or b"")


class Appends:
    def __init__(self, servers: KafkaServers) -> None:
        self._servers = servers
        self._producer: Lazily[AIOKafkaProducer] = self._new()
        self._in_flight = 0
        self._less_in_flight = asyncio.Event()
        self._under_way: set[asyncio.Future[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    def _new(self) -> Lazily[AIOKafkaProducer]:
        return Lazily(
            lambda: self._servers.producer(
                enable_idempotence=True,
                acks="all",
                linger_ms=0,
                max_batch_size=BATCH_BYTES,
                max_request_size=LARGEST_BATCH,
            )
        )

    async def append(self, records: Sequence[Placed]) -> None:
        if self._closed:
            raise Unavailable("the log is closed")
        under_way = asyncio.get_running_loop().create_future()
        self._under_way.add(under_way)
        try:
            await self._append(records)
        finally:
            self._under_way.remove(under_way)
            under_way.set_result(None)

    async def _append(self, records: Sequence[Placed]) -> None:
        producer = self._producer
        try:
            async with asyncio.timeout(APPEND_S):
                for piece, size in _pieces(records):
                    await self._room_for(size)
                    try:
                        await self._send(await producer(), piece)
                    finally:
                        self._in_flight -= size
                        self._less_in_flight.set()
        except AWAY as error:
            self._replace(producer)
            raise Unavailable(
                f"{self._servers.unavailable('appending', error).message}: whether {len(records)} records for"
                f" '{records[0].at.topic}' were appended is unknown"
            ) from error

    async def _send(self, producer: AIOKafkaProducer, records: Sequence[Placed]) -> None:
        acknowledgements = []
        for record, at in records:
            partition = self._servers.theirs(at)
            acknowledgement = await producer.send(
                partition.topic, record.value, record.key.encode(), partition.partition
            )
            acknowledgement.add_done_callback(_seen)
            acknowledgements.append(acknowledgement)
        await asyncio.wait(acknowledgements)
        for acknowledgement in acknowledgements:
            acknowledgement.result()

    async def _room_for(self, size: int) -> None:
        while self._in_flight and self._in_flight + size > MOST_IN_FLIGHT:
            self._less_in_flight.clear()
            await self._less_in_flight.wait()
        self._in_flight += size

    def _replace(self, producer: Lazily[AIOKafkaProducer]) -> None:
        if self._producer is producer and producer.made is not None:
            self._producer = self._new()
            ending = asyncio.create_task(_end(producer.made))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        self._closed = True
        if self._under_way:
            await asyncio.wait(self._under_way)
        self._replace(self._producer)
        if self._ending:
            await asyncio.wait(self._ending)


def _pieces(records: Sequence[Placed]) -> Iterator[tuple[Sequence[Placed], int]]:
    """The records in their order, so many at a time as may be in flight, and their size."""
    start = size = 0
    for index, record in enumerate(records):
        if index > start and size + record.size > MOST_IN_FLIGHT:
            yield records[start:index], size
            start, size = index, 0
        size += record.size
    yield records[start:], size


def _seen(acknowledgement: asyncio.Future[object]) -> None:
    """An append that was given up no longer looks at it, and asyncio complains of errors that nobody has looked at."""
    if not acknowledgement.cancelled():
        acknowledgement.exception()


async def _end(producer: AIOKafkaProducer) -> None:
    """Stops a producer. aiokafka's own stop waits for all that it holds, which it would send without end, long after
    the callers were told: after a while that is given up, for which aiokafka has no public way.
    """
    with suppress(TimeoutError):
        await asyncio.wait_for(producer.flush(), DRAIN_S)
    sending = producer._sender.sender_task
    sending.cancel()
    await asyncio.wait([sending])
    producer._message_accumulator._batches.clear()
    producer._message_accumulator._pending_batches.clear()
    with suppress(*AWAY):
        await producer.stop()
