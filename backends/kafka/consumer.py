"""The port's Consumer and Reader on Kafka: group membership (group.py) and fetching (fetcher.py) put together."""

import asyncio
from collections.abc import Callable, Collection, Mapping

import structlog
from aiokafka import AIOKafkaClient

from backends.kafka.connect import KafkaServers
from backends.kafka.fetcher import KafkaFetcher
from backends.kafka.group import SESSION_S, Assignment, GroupMember
from backends.kafka.offsets import KafkaOffsets
from backends.log import CommittedOffset, Consumer, Reader, Record, TopicPartition
from backends.log_checks import check_metadata
from schemas.errors import Fenced, OffsetGone, Unavailable

log = structlog.get_logger(__name__)

REPORT_EVERY_S = 60.0


class KafkaConsumer(Consumer):
    """See Consumer. A commit carries the group generation that the caller knows, the one of its last poll. The group's
    coordinator refuses it after a rebalance, so this process can never commit under another assignment.
    """

    def __init__(
        self,
        servers: KafkaServers,
        client: AIOKafkaClient,
        offsets: KafkaOffsets,
        *,
        group: str,
        used_partitions: Mapping[str, int],
        member: str,
        linger_s: float,
        on_close: Callable[["KafkaConsumer"], None],
    ) -> None:
        self.epoch = 0
        self.assignment: Mapping[TopicPartition, CommittedOffset] = {}
        self._servers, self._client, self._offsets, self._group = servers, client, offsets, group
        self._name, self._on_close = f"the consumer '{member}' of group '{group}'", on_close
        self._changed = asyncio.Event()
        self._joined: Assignment | None = None
        self._reported: dict[TopicPartition, float] = {}  # of those in `unreadable`, and when
        self._committing = asyncio.Lock()
        self._closed = False
        self._fetcher = KafkaFetcher(servers, self._changed.set, skip_missing=False, linger_s=linger_s)
        self._member = GroupMember(servers, client, group, member, used_partitions, self._changed.set)

    async def poll(
        self,
        max_records: int,
        timeout_s: float,
        *,
        topics: Collection[str] | None = None,
        paused: Collection[TopicPartition] = (),
    ) -> list[Record]:
        deadline = asyncio.get_running_loop().time() + timeout_s
        await asyncio.sleep(0)  # a poll that is answered from memory must let other tasks run
        while True:
            self._changed.clear()
            if self._closed:
                raise Unavailable(f"{self._name} is closed")
            if self._member.failure is not None:
                raise self._member.failure
            assignment = self._member.assignment
            if assignment is not None and assignment is not self._joined:
                if await self._begin_epoch(assignment):
                    return []
                continue
            if assignment is not None and self._member.session_lasts():
                if self._fetcher.gone is not None:
                    raise await self._offset_gone(*self._fetcher.gone)
                self._report_unreadable()
                _raise_failure(self._servers, self._fetcher)
                if records := self._fetcher.take(max_records, topics, paused):
                    return records
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                if not self._member.session_lasts():
                    raise Unavailable(f"{self._name} has not heard from its coordinator for {SESSION_S:.0f} s")
                return []
            await _wait(self._changed, left)

    async def _begin_epoch(self, assignment: Assignment) -> bool:
        """Begins a new epoch with this assignment. Returns False when it has been lost again meanwhile."""
        async with self._committing:  # a commit under the old assignment may still succeed, and has to be read here
            committed = await self._offsets.committed_offsets(self._group, assignment.partitions)
        earliest = await self._offsets.bounds("start", assignment.partitions - committed.keys())
        if self._member.assignment is not assignment or self._closed:
            return False
        # No await from here on until poll returns: a commit in between would be made under an assignment that its
        # caller does not know yet.
        self._joined = assignment
        self.epoch = max(self.epoch + 1, assignment.generation)
        self.assignment = {**committed, **{at: CommittedOffset(offset) for at, offset in earliest.items()}}
        self._fetcher.seek({at: start.offset for at, start in self.assignment.items()})
        self.unreadable = self._fetcher.unreadable
        self._reported.clear()
        return True

    def _report_unreadable(self) -> None:
        now = asyncio.get_running_loop().time()
        for at, batch in self.unreadable.items():
            if now - self._reported.get(at, float("-inf")) < REPORT_EVERY_S:
                continue
            self._reported[at] = now
            log.error(
                "a partition stops at a batch that cannot be read: the others go on; stop the role, and"
                f" `facestream recover {self._group}` skips the batch",
                topic=at.topic,
                partition=at.partition,
                first_offset=batch.first,
                last_offset=batch.last,
                cause=batch.cause,
            )

    async def _offset_gone(self, partition: TopicPartition, offset: int) -> OffsetGone:
        earliest = (await self._offsets.bounds("start", [partition]))[partition]
        return OffsetGone(
            f"{self._name} has to continue in topic '{partition.topic}', partition {partition.partition},"
            f" at offset {offset}, which no longer exists; the earliest is {earliest}:"
            " `facestream recover` shows what was lost and continues from there"
        )

    def next_offsets(self) -> Mapping[TopicPartition, int]:
        return self._fetcher.next_offsets()

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        assignment = self._joined
        check_metadata(offsets)
        if self._closed or assignment is None or not self.assignment.keys() >= offsets.keys():
            raise Fenced(f"{self._name} commits for partitions that are not its own")
        async with self._committing:
            await self._servers.call(
                "committing", lambda: self._member.commit(assignment, offsets), right=self._member.right
            )

    def holds_partitions(self) -> bool:
        return self._joined is not None and self._member.assignment is self._joined and self._member.session_lasts()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._changed.set()
            self._on_close(self)
            await self._member.leave()
            await self._fetcher.close()
            await self._client.close()


class KafkaReader(Reader):
    """See Reader. Records that retention deletes before they were read are skipped."""

    def __init__(
        self, servers: KafkaServers, offsets: Mapping[TopicPartition, int], *, on_close: Callable[["KafkaReader"], None]
    ) -> None:
        self._servers, self._on_close = servers, on_close
        self._closed = False
        self._changed = asyncio.Event()
        self._fetcher = KafkaFetcher(servers, self._changed.set, skip_missing=True)
        self._fetcher.seek(offsets)

    async def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        deadline = asyncio.get_running_loop().time() + timeout_s
        await asyncio.sleep(0)  # a poll that is answered from memory must let other tasks run
        while True:
            self._changed.clear()
            if self._closed:
                raise Unavailable("the reader is closed")
            _raise_failure(self._servers, self._fetcher)
            if records := self._fetcher.take(max_records):
                return records
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                for at, batch in self._fetcher.unreadable.items():
                    raise Unavailable(f"topic '{at.topic}', partition {at.partition}: {batch}")
                return []
            await _wait(self._changed, left)

    def next_offsets(self) -> Mapping[int, int]:
        return {at.partition: offset for at, offset in self._fetcher.next_offsets().items()}

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._changed.set()
            self._on_close(self)
            await self._fetcher.close()


def _raise_failure(servers: KafkaServers, fetcher: KafkaFetcher) -> None:
    """Raises Unavailable, once, if fetching has failed. The fetcher keeps trying."""
    if (failure := fetcher.failure) is not None:
        fetcher.failure = None
        if isinstance(failure, Unavailable):
            raise failure
        raise servers.port_error("fetching", failure, "Read on the topic") from failure


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
