"""Fetches records of some partitions, keeps the positions in them, and returns the records in fair shares.

aiokafka fetches a partition again only after its records were taken. Meanwhile it holds a request for the other
partitions open, and it returns all records of one partition before those of the next. So its records are taken at once
and buffered here, and every partition is fetched all the time.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from backends.kafka.connect import FAILURES, KafkaServers
from backends.kafka.fetch_sessions import FetchSessions, fetch_in_sessions
from backends.kafka.private_parts import close_connections, fetcher_has_ended
from backends.log import Record, TopicPartition, UnreadableBatch, fair_shares
from schemas.errors import Unavailable

# Bytes that are buffered: for all partitions together and for one. One record may have 8 MB. A rebalance drops what is
# buffered, and fetching and decoding it again delays the first records of the new epoch.
BUFFER_BYTES, BUFFER_PARTITION_BYTES = 8 << 20, 1 << 20
# Bytes that one poll returns, unless its first record alone is larger.
POLL_BYTES = 32 << 20
# Bytes that one request asks for: for all partitions together and for one.
REQUEST_BYTES, REQUEST_PARTITION_BYTES = 4 << 20, 1 << 18
# A server holds a request open for this long if there is nothing new. The first request from a new position waits until
# the previous request has ended.
LONG_POLL_S = 0.25
CONNECT_CANCEL_S = 2.0
RESTART_PAUSE_S = 0.5

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _FetchedRecords:
    """The records of a partition that were fetched and not yet returned, `size` bytes of them.

    `next_offset` is the offset after the last of them, and after offsets without records that follow. `paused`: the
    partition is left out of requests.
    """

    next_offset: int
    records: deque[ConsumerRecord] = field(default_factory=deque)
    size: int = 0
    paused: bool = False


class KafkaFetcher:
    """Fetches in a separate task until it is closed.

    `unreadable` has the partitions that are no longer fetched, because their next batch cannot be read. `gone` is a
    partition and its offset that the servers no longer have. `failure` is any other reason why aiokafka could not
    fetch. `on_change` is called when there are new records, or when one of these has changed.

    With `skip_missing`, a partition whose offset no longer exists continues at its earliest record. With `linger_s`, a
    server holds records back for this long, unless there are many.
    """

    def __init__(
        self, servers: KafkaServers, on_change: Callable[[], None], *, skip_missing: bool, linger_s: float = 0.0
    ) -> None:
        self._linger_s = linger_s
        self.gone: tuple[TopicPartition, int] | None = None
        self.failure: Exception | None = None
        self.unreadable: dict[TopicPartition, UnreadableBatch] = {}
        self._servers, self._on_change, self._skip_missing = servers, on_change, skip_missing
        self._partitions: dict[TopicPartition, _FetchedRecords] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._task = asyncio.create_task(self._keep_fetching())

    def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Reads these partitions from these offsets from now on, and forgets what was fetched before."""
        self._partitions = {at: _FetchedRecords(offset) for at, offset in offsets.items()}
        self.gone = self.failure = None
        self.unreadable = {}
        if self._consumer is not None:
            self._assign(self._consumer)

    def _assign(self, consumer: AIOKafkaConsumer) -> None:
        consumer.assign([self._servers.to_cluster(at) for at in self._partitions])
        for at, fetched in self._partitions.items():
            consumer.seek(self._servers.to_cluster(at), fetched.next_offset)
            fetched.paused = False
        consumer.pause(*map(self._servers.to_cluster, self.unreadable))

    async def _keep_fetching(self) -> None:
        """Fetches until it is cancelled, with a new aiokafka consumer after each failure: one that has failed may have
        moved past records that it did not return, or may fetch no more.
        """
        while True:
            try:
                consumer = await self._new_consumer()
                sessions = fetch_in_sessions(consumer)
                try:
                    await self._fetch(consumer, sessions)
                finally:
                    self._consumer = None
                    await _stop(consumer)
            except Exception as error:
                if not isinstance(error, (*FAILURES, Unavailable)):
                    log.exception("fetching failed")
                self.failure = error
                self._on_change()
            await asyncio.sleep(RESTART_PAUSE_S)

    async def _new_consumer(self) -> AIOKafkaConsumer:
        starting = asyncio.ensure_future(
            self._servers.consumer(
                auto_offset_reset="earliest" if self._skip_missing else "none",
                fetch_min_bytes=REQUEST_PARTITION_BYTES if self._linger_s else 1,
                fetch_max_wait_ms=int((self._linger_s or LONG_POLL_S) * 1000),
                fetch_max_bytes=REQUEST_BYTES,
                max_partition_fetch_bytes=REQUEST_PARTITION_BYTES,
                check_crcs=False,  # batches.py has checked them
                isolation_level="read_committed",
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:  # a consumer that is cancelled while it connects leaves its connection open
            await asyncio.wait([starting], timeout=CONNECT_CANCEL_S)
            if not starting.done():
                starting.cancel()
                await asyncio.wait([starting])
            elif not starting.cancelled() and starting.exception() is None:
                await _stop(starting.result())
            raise

    async def _fetch(self, consumer: AIOKafkaConsumer, sessions: FetchSessions) -> None:
        self._assign(consumer)
        self._consumer = consumer
        while not fetcher_has_ended(consumer):  # getmany would wait for such a one for ever
            try:
                batches = await consumer.getmany(timeout_ms=int(LONG_POLL_S * 1000))
            except OffsetOutOfRangeError as error:
                ((partition, offset),) = error.args[0].items()
                self.gone = (self._servers.from_cluster(partition), offset)
                self._on_change()
                await asyncio.sleep(RESTART_PAUSE_S)
            else:
                self._buffer(batches)
                for partition, position in (await sessions.positions(consumer)).items():
                    if (fetched := self._partitions.get(self._servers.from_cluster(partition))) is not None:
                        fetched.next_offset = max(fetched.next_offset, position)
                for partition, batch in (await sessions.pause_unreadable(consumer)).items():
                    self.unreadable[self._servers.from_cluster(partition)] = batch
                    self._on_change()

    def next_offsets(self) -> dict[TopicPartition, int]:
        """For each partition the offset after the records that were taken, and after offsets without records."""
        return {
            at: fetched.records[0].offset if fetched.records else fetched.next_offset
            for at, fetched in self._partitions.items()
        }

    def _buffer(self, batches: Mapping[KafkaPartition, list[ConsumerRecord]]) -> None:
        for partition, records in batches.items():
            fetched = self._partitions[self._servers.from_cluster(partition)]
            fetched.records.extend(records)
            fetched.size += sum(map(_size, records))
            fetched.next_offset = records[-1].offset + 1
        if batches:
            self._pause()
            self._on_change()

    def _pause(self) -> None:
        """Leaves those partitions out of the next requests of which enough is buffered."""
        full = sum(bool(fetched.records) for fetched in self._partitions.values())
        enough = min(BUFFER_PARTITION_BYTES, BUFFER_BYTES // max(1, full))
        if self._consumer is None:
            return
        for at, fetched in self._partitions.items():
            if not fetched.paused and fetched.size > enough:
                fetched.paused = True
                self._consumer.pause(self._servers.to_cluster(at))
            elif fetched.paused and fetched.size <= enough // 2 and at not in self.unreadable:
                fetched.paused = False
                self._consumer.resume(self._servers.to_cluster(at))

    def take(
        self, limit: int, topics: Collection[str] | None = None, paused: Collection[TopicPartition] = ()
    ) -> list[Record]:
        """Takes up to `limit` records out of the buffer, in fair shares of the partitions."""
        ready = [
            (at, fetched)
            for at, fetched in self._partitions.items()
            if fetched.records and (topics is None or at.topic in topics) and at not in paused
        ]
        taken: list[Record] = []
        room = POLL_BYTES
        for (at, fetched), share in zip(
            ready, fair_shares([len(each.records) for _, each in ready], limit), strict=True
        ):
            for _ in range(share):
                size = _size(fetched.records[0])
                if taken and size > room:
                    break
                room -= size
                fetched.size -= size
                taken.append(_record(at, fetched.records.popleft()))
            if share:  # moves to the end, so that each partition has its turn if there are more of them than records
                self._partitions[at] = self._partitions.pop(at)
        if taken:
            self._pause()
        return taken

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def _stop(consumer: AIOKafkaConsumer) -> None:
    try:
        await consumer.stop()
    except KafkaError:  # raised by a fetcher that has failed, before aiokafka has closed its connections
        await close_connections(consumer)


def _record(topic_partition: TopicPartition, record: ConsumerRecord) -> Record:
    key: str | bytes | None = record.key
    with suppress(UnicodeDecodeError):
        key = None if record.key is None else record.key.decode()
    headers = tuple(record.headers)
    return Record(
        topic_partition.topic, topic_partition.partition, record.offset, record.timestamp, key, record.value, headers
    )


def _size(record: ConsumerRecord) -> int:
    header_bytes = sum(len(value or b"") for _, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + header_bytes
