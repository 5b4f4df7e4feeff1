"""Reading partitions of Kafka from positions of our own: what aiokafka fetches is taken over at once and shared out
fairly.

aiokafka asks for a partition again only when what it fetched of it was taken, holds a request for the others open
meanwhile, and gives out one partition's records before the next one's. Taken over at once, every partition is asked for
all the time.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from backends.kafka.connect import AWAY, KafkaServers
from backends.kafka.fetch_sessions import use_sessions
from backends.log import Record, TopicPartition, fair_shares
from schemas.errors import Unavailable

# What is fetched ahead, of all partitions and of one, and what one poll gives out; a record may have 8 MB.
AHEAD_BYTES, AHEAD_OF_ONE_BYTES, POLL_BYTES = 32 << 20, 4 << 20, 32 << 20
REQUEST_BYTES, REQUEST_OF_ONE_BYTES = 16 << 20, 1 << 20
# A request is held open for so long when there is nothing new. The first at a new position waits for the end of the one
# before.
HELD_OPEN_S = 0.25
CONNECTING_S = 2.0
FAILED_PAUSE_S = 0.5

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Fetched:
    """The records of a partition that are fetched and not given out. `next_offset` follows the last of them."""

    next_offset: int
    records: deque[ConsumerRecord] = field(default_factory=deque)
    size: int = 0
    paused: bool = False


class Fetching:
    """`gone` is a partition and the offset in it that the servers no longer have, `failure` what else kept aiokafka
    from fetching. `changed` is called when there is news. With `may_skip`, a partition whose offset is gone goes on at
    its earliest record. With `linger_s`, records are left on the servers for so long, unless there are many.
    """

    def __init__(
        self, servers: KafkaServers, changed: Callable[[], None], *, may_skip: bool, linger_s: float = 0.0
    ) -> None:
        self._linger_s = linger_s
        self.gone: tuple[TopicPartition, int] | None = None
        self.failure: Exception | None = None
        self._servers, self._changed, self._may_skip = servers, changed, may_skip
        self._partitions: dict[TopicPartition, _Fetched] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._living = asyncio.create_task(self._live())

    def go_on_at(self, offsets: Mapping[TopicPartition, int]) -> None:
        """From now on these partitions are read, from these offsets; what was fetched before is forgotten."""
        self._partitions = {at: _Fetched(offset) for at, offset in offsets.items()}
        self.gone = self.failure = None
        if self._consumer is not None:
            self._assign(self._consumer)

    def _assign(self, consumer: AIOKafkaConsumer) -> None:
        consumer.assign([self._servers.theirs(at) for at in self._partitions])
        for at, fetched in self._partitions.items():
            consumer.seek(self._servers.theirs(at), fetched.next_offset)
            fetched.paused = False

    async def _live(self) -> None:
        """Fetches with one aiokafka consumer after another: one that has failed may have counted records as given out
        that it did not give, or fetch no more.
        """
        while True:
            try:
                consumer = await self._started()
                use_sessions(consumer)
                try:
                    await self._fetch(consumer)
                finally:
                    self._consumer = None
                    await _stop(consumer)
            except Exception as error:
                if not isinstance(error, (*AWAY, Unavailable)):
                    log.exception("fetching failed")
                self.failure = error
                self._changed()
            await asyncio.sleep(FAILED_PAUSE_S)

    async def _started(self) -> AIOKafkaConsumer:
        starting = asyncio.ensure_future(
            self._servers.consumer(
                auto_offset_reset="earliest" if self._may_skip else "none",
                fetch_min_bytes=REQUEST_OF_ONE_BYTES if self._linger_s else 1,
                fetch_max_wait_ms=int((self._linger_s or HELD_OPEN_S) * 1000),
                fetch_max_bytes=REQUEST_BYTES,
                max_partition_fetch_bytes=REQUEST_OF_ONE_BYTES,
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:  # aiokafka leaves a connection open that is cancelled as it is made
            await asyncio.wait([starting], timeout=CONNECTING_S)
            if not starting.done():
                starting.cancel()
                await asyncio.wait([starting])
            elif not starting.cancelled() and starting.exception() is None:
                await _stop(starting.result())
            raise

    async def _fetch(self, consumer: AIOKafkaConsumer) -> None:
        self._assign(consumer)
        self._consumer = consumer
        while not consumer._fetcher.error_future.done():  # getmany would wait for ever for a fetcher that has ended
            try:
                news = await consumer.getmany(timeout_ms=int(HELD_OPEN_S * 1000))
            except OffsetOutOfRangeError as error:
                ((partition, offset),) = error.args[0].items()
                self.gone = (self._servers.ours(partition), offset)
                self._changed()
                await asyncio.sleep(FAILED_PAUSE_S)
            else:
                self._keep(news)

    def _keep(self, news: Mapping[KafkaPartition, list[ConsumerRecord]]) -> None:
        for partition, records in news.items():
            fetched = self._partitions[self._servers.ours(partition)]
            fetched.records.extend(records)
            fetched.size += sum(map(_size, records))
            fetched.next_offset = records[-1].offset + 1
        if news:
            self._pause()
            self._changed()

    def _pause(self) -> None:
        """Leaves out of the next requests those partitions of which there is enough."""
        full = sum(bool(fetched.records) for fetched in self._partitions.values())
        enough = min(AHEAD_OF_ONE_BYTES, AHEAD_BYTES // max(1, full))
        if self._consumer is None:
            return
        for at, fetched in self._partitions.items():
            if not fetched.paused and fetched.size > enough:
                fetched.paused = True
                self._consumer.pause(self._servers.theirs(at))
            elif fetched.paused and fetched.size <= enough // 2:
                fetched.paused = False
                self._consumer.resume(self._servers.theirs(at))

    def take(
        self, limit: int, topics: Collection[str] | None = None, paused: Collection[TopicPartition] = ()
    ) -> list[Record]:
        """Up to `limit` records, in fair shares, and moves past them."""
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
            if share:  # who was served goes to the end, so that with more partitions than records each has its turn
                self._partitions[at] = self._partitions.pop(at)
        if taken:
            self._pause()
        return taken

    async def close(self) -> None:
        self._living.cancel()
        await asyncio.wait([self._living])


async def _stop(consumer: AIOKafkaConsumer) -> None:
    try:
        await consumer.stop()
    except KafkaError:  # of a fetcher that has failed; aiokafka stops no further then
        await consumer._client.close()


def _record(at: TopicPartition, record: ConsumerRecord) -> Record:
    key = (record.key or b"").decode(errors="replace")  # other systems may append without a key
    headers = tuple((name, value or b"") for name, value in record.headers) if record.headers else ()
    return Record(at.topic, at.partition, record.offset, record.timestamp, key, record.value, headers)


def _size(record: ConsumerRecord) -> int:
    beside = sum(len(value or b"") for _, value in record.headers) if record.headers else 0
    return len(record.key or b"") + len(record.value or b"") + beside
