"""The port's Consumer and Reader on the embedded log.

Both have a position in each of their partitions, and read the next records from memory if they were just appended,
otherwise from SQLite.
"""

import asyncio
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from backends.log import CommittedOffset, Consumer, Reader, Record, TopicPartition, fair_shares
from backends.log_checks import check_metadata
from backends.sqlite.log_groups import Membership, commit, read_assignment
from backends.sqlite.log_schema import decode_headers, decode_key, offset_of, record_id
from backends.sqlite.log_view import LogView
from backends.sqlite.log_writer import LogWriter
from backends.sqlite.threads import ReadThread
from schemas.errors import Fenced, OffsetGone, StorageFull, Unavailable

# Bytes after which a poll ends early: a few hundred records of 8 MB would not fit into memory.
POLL_BYTES = 32 << 20


@dataclass(slots=True)
class _Position:
    """A partition and the next offset to read in it."""

    partition_id: int
    topic_partition: TopicPartition
    offset: int


@dataclass(frozen=True, slots=True)
class _PartitionRead:
    """The records that were read of a partition, and the next offset. `start` is the first offset of the partition."""

    records: Sequence[Record]
    next_offset: int
    start: int


class _Positions:
    """The positions of a reader or of a member of `group`, which must not skip records that retention has deleted."""

    def __init__(self, view: LogView, reads: ReadThread, positions: Sequence[_Position], *, group: str | None) -> None:
        self._view = view
        self._reads = reads
        self._positions = list(positions)
        self._group = group

    async def take(
        self, limit: int, topics: Collection[str] | None, paused: Collection[TopicPartition]
    ) -> list[Record]:
        """The next records, up to `limit`, in fair shares of the partitions. Moves past them. Raises OffsetGone."""
        ready = [
            position
            for position in self._positions
            if position.offset < self._view.ends.get(position.partition_id, 0)
            and (topics is None or position.topic_partition.topic in topics)
            and position.topic_partition not in paused
        ]
        if not ready:
            return []
        shares = fair_shares([self._view.ends[position.partition_id] - position.offset for position in ready], limit)
        served = [(position, share) for position, share in zip(ready, shares, strict=True) if share]
        taken = {
            position.partition_id: self._view.tail(position.partition_id, position.offset, share)
            for position, share in served
        }
        not_in_memory = [(position, share) for position, share in served if not taken[position.partition_id]]
        results = await self._reads.run(lambda connection: _read(connection, not_in_memory)) if not_in_memory else []
        for (position, _), result in zip(not_in_memory, results, strict=True):
            if result.start > position.offset and self._group is not None:
                topic, partition = position.topic_partition
                raise OffsetGone(
                    f"group '{self._group}' has to continue in topic '{topic}', partition {partition},"
                    f" at offset {position.offset}, which retention has deleted; the earliest is {result.start}:"
                    " `facestream recover` shows what was lost and continues from there"
                )
        # Positions move only from here on, so that a poll that was cancelled or failed has taken nothing.
        for (position, _), result in zip(not_in_memory, results, strict=True):
            taken[position.partition_id] = list(result.records)
            position.offset = result.next_offset
        for position, _ in served:
            if records := taken[position.partition_id]:
                position.offset = max(position.offset, records[-1].offset + 1)
        # Those move to the end, so that each partition has its turn if there are more of them than records.
        served_ids = {position.partition_id for position, _ in served}
        self._positions.sort(key=lambda position: position.partition_id in served_ids)
        return [record for position, _ in served for record in taken[position.partition_id]]

    def next_offsets(self) -> dict[TopicPartition, int]:
        return {position.topic_partition: position.offset for position in self._positions}


def _read(connection: sqlite3.Connection, wanted: Sequence[tuple[_Position, int]]) -> list[_PartitionRead]:
    results = []
    room = POLL_BYTES
    for position, limit in wanted:
        partition_id, (topic, partition) = position.partition_id, position.topic_partition
        start, end = connection.execute(
            "SELECT start_offset, next_offset FROM partitions WHERE id = ?", (partition_id,)
        ).fetchone()
        if room <= 0:
            results.append(_PartitionRead((), position.offset, min(start, position.offset)))
            continue
        rows = connection.execute(
            "SELECT id, timestamp, key, value, headers FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (record_id(partition_id, max(start, position.offset)), record_id(partition_id, end), limit),
        )
        records = []
        for row, timestamp, key, value, headers in rows:
            place = topic, partition, offset_of(row)
            records.append(Record(*place, timestamp, decode_key(key), value, decode_headers(headers)))
            room -= len(value or b"")
            if room <= 0:
                break
        # If all were read, only gaps left by compaction follow before the end.
        more = room <= 0 or len(records) == limit
        next_offset = records[-1].offset + 1 if more and records else max(end, position.offset)
        results.append(_PartitionRead(records, next_offset, start))
    return results


class SqliteReader(Reader):
    """See Reader. Records that retention deletes before they were read are skipped."""

    def __init__(
        self, writer: LogWriter, view: LogView, reads: ReadThread, topic: str, positions: Sequence[tuple[int, int, int]]
    ) -> None:
        self._writer = writer
        self._view = view
        self._topic = topic
        self._closed = False
        self._positions = _Positions(
            view,
            reads,
            [
                _Position(partition_id, TopicPartition(topic, partition), offset)
                for partition_id, partition, offset in positions
            ],
            group=None,
        )

    async def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        deadline = asyncio.get_running_loop().time() + timeout_s
        await asyncio.sleep(0)  # a poll that is answered from memory must let other tasks run
        while True:
            change_count = self._view.change_count
            if self._closed or self._writer.closed:
                raise Unavailable(f"the reader of '{self._topic}' is closed")
            if records := await self._positions.take(max_records, None, ()):
                return records
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return []
            await self._view.wait((self._topic,), left, change_count)

    def next_offsets(self) -> Mapping[int, int]:
        return {at.partition: offset for at, offset in self._positions.next_offsets().items()}

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._writer.reader_count -= 1
            self._view.wake_all()


class SqliteConsumer(Consumer):
    """See Consumer. The writer's thread renews the lease, even while the event loop is busy."""

    def __init__(
        self,
        writer: LogWriter,
        view: LogView,
        reads: ReadThread,
        member: Membership,
        topics: Sequence[str],
        linger_s: float,
    ) -> None:
        self._linger_s = linger_s
        self.epoch = 0
        self.assignment: Mapping[TopicPartition, CommittedOffset] = {}
        self._writer = writer
        self._view = view
        self._reads = reads
        self._membership = member
        self._topics = list(topics)
        self._ids: Mapping[TopicPartition, int] = {}
        self._positions = _Positions(view, reads, (), group=member.group)
        self._closed = False

    async def poll(
        self,
        max_records: int,
        timeout_s: float,
        *,
        topics: Collection[str] | None = None,
        paused: Collection[TopicPartition] = (),
    ) -> list[Record]:
        deadline = asyncio.get_running_loop().time() + timeout_s
        # Even for 0 s: a poll that is answered from memory must let other tasks run.
        await asyncio.sleep(min(self._linger_s, timeout_s))
        while True:
            change_count = self._view.change_count
            if self._closed or self._writer.closed:
                raise Unavailable(
                    f"the consumer '{self._membership.member}' of group '{self._membership.group}' is closed"
                )
            if self._membership.session in self._view.replaced:
                name, group = self._membership.member, self._membership.group
                raise Fenced(
                    f"another process has joined group '{group}' as '{name}': give each member a name of its own"
                )
            if self._view.epochs.get(self._membership.group, 0) > self.epoch and await self._begin_epoch():
                return []
            if records := await self._positions.take(max_records, topics, paused):
                return records
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return []
            await self._view.wait(self._topics if topics is None else topics, left, change_count)

    def next_offsets(self) -> Mapping[TopicPartition, int]:
        return self._positions.next_offsets()

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        session, group, epoch = self._membership.session, self._membership.group, self.epoch
        check_metadata(offsets)
        if self._closed or not self._ids.keys() >= offsets.keys():
            raise Fenced(f"group '{group}': a commit for partitions that are not this member's")
        rows = [(self._ids[topic_partition], committed) for topic_partition, committed in offsets.items()]
        await self._writer.run(lambda connection: commit(connection, session, group, epoch, rows))

    def holds_partitions(self) -> bool:
        return self._writer.leases_are_valid() and self._view.epochs.get(self._membership.group, 0) == self.epoch

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writer.reader_count -= 1
        self._writer.memberships.pop(self._membership.session, None)
        self._view.wake_all()
        with suppress(Unavailable, StorageFull):  # a closed log has left already; otherwise the lease expires
            await self._writer.run(self._writer.leave(self._membership.session))

    async def _begin_epoch(self) -> bool:
        """Begins the group's current epoch. Returns False while this member is not in the group; the next heartbeat
        joins again.
        """
        assignment = await self._reads.run(lambda connection: read_assignment(connection, self._membership))
        if assignment is None or assignment.epoch == self.epoch:
            return False
        self.epoch = assignment.epoch
        self.assignment = {each.topic_partition: each.committed for each in assignment.partitions}
        self._ids = {each.topic_partition: each.partition_id for each in assignment.partitions}
        positions = [
            _Position(each.partition_id, each.topic_partition, each.committed.offset) for each in assignment.partitions
        ]
        self._positions = _Positions(self._view, self._reads, positions, group=self._membership.group)
        return True
