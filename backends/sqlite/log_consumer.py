"""Reading the embedded log: members of groups, and readers without one.

Both hold a position in each of their partitions and ask the same `Source` for what follows: from memory where the
records are fresh, from SQLite otherwise.
"""

import asyncio
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from backends.log import Committed, Consumer, Reader, Record, TopicPartition, check_metadata, fair_shares
from backends.sqlite.log_groups import Membership, commit, read_assignment
from backends.sqlite.log_schema import offset_of, record_id
from backends.sqlite.threads import ReadThread
from backends.sqlite.log_view import LogView
from backends.sqlite.log_writer import LogWriter
from schemas.errors import Fenced, OffsetGone, StorageFull, Unavailable

# A poll of large records ends early: at 8 MB each, a few hundred of them would not fit into memory.
POLL_BYTES = 32 << 20


@dataclass(slots=True)
class _Place:
    """A partition and the next offset to read in it."""

    partition_id: int
    topic_partition: TopicPartition
    offset: int


@dataclass(frozen=True, slots=True)
class _Stretch:
    """What was read of a partition, and where to go on. `start` is the first offset that retention has left."""

    records: Sequence[Record]
    next_offset: int
    start: int


class _Positions:
    """Positions in some partitions, and the next records from there. A group's must not skip what retention has
    deleted.
    """

    def __init__(self, view: LogView, reads: ReadThread, places: Sequence[_Place], *, group: str | None) -> None:
        self._view = view
        self._reads = reads
        self._places = list(places)
        self._group = group

    async def take(
        self, limit: int, topics: Collection[str] | None, paused: Collection[TopicPartition]
    ) -> list[Record]:
        """Up to `limit` records, in fair shares, and moves past them. Raises OffsetGone."""
        ready = [
            place
            for place in self._places
            if place.offset < self._view.ends.get(place.partition_id, 0)
            and (topics is None or place.topic_partition.topic in topics)
            and place.topic_partition not in paused
        ]
        if not ready:
            return []
        shares = fair_shares([self._view.ends[place.partition_id] - place.offset for place in ready], limit)
        served = [(place, share) for place, share in zip(ready, shares, strict=True) if share]
        taken = {
            place.partition_id: self._view.tail(place.partition_id, place.offset, share) for place, share in served
        }
        cold = [(place, share) for place, share in served if not taken[place.partition_id]]
        stretches = await self._reads.run(lambda connection: _read(connection, cold)) if cold else []
        for (place, _), stretch in zip(cold, stretches, strict=True):
            if stretch.start > place.offset and self._group is not None:
                topic, partition = place.topic_partition
                raise OffsetGone(
                    f"group '{self._group}' has to go on in topic '{topic}', partition {partition}, at offset {place.offset},"
                    f" which retention has deleted; the earliest is {stretch.start}: `facestream recover` shows what was lost and"
                    " goes on from there"
                )
        # Only from here on is anything moved: a poll that was cancelled or failed has taken nothing.
        for (place, _), stretch in zip(cold, stretches, strict=True):
            taken[place.partition_id] = list(stretch.records)
            place.offset = stretch.next_offset
        for place, _ in served:
            if records := taken[place.partition_id]:
                place.offset = max(place.offset, records[-1].offset + 1)
        # Who was served last goes to the end, so that with more partitions than records each has its turn.
        turn = {place.partition_id for place, _ in served}
        self._places.sort(key=lambda place: place.partition_id in turn)
        return [record for place, _ in served for record in taken[place.partition_id]]


def _read(connection: sqlite3.Connection, wanted: Sequence[tuple[_Place, int]]) -> list[_Stretch]:
    stretches = []
    room = POLL_BYTES
    for place, limit in wanted:
        partition_id, (topic, partition) = place.partition_id, place.topic_partition
        start, end = connection.execute(
            "SELECT start_offset, next_offset FROM partitions WHERE id = ?", (partition_id,)
        ).fetchone()
        if room <= 0:
            stretches.append(_Stretch((), place.offset, min(start, place.offset)))
            continue
        rows = connection.execute(
            "SELECT id, timestamp, key, value FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (record_id(partition_id, max(start, place.offset)), record_id(partition_id, end), limit),
        )
        records = []
        for row, timestamp, key, value in rows:
            records.append(Record(topic, partition, offset_of(row), timestamp, key, value))
            room -= len(value or b"")
            if room <= 0:
                break
        # With all read, what is left before the end are holes of compaction.
        more = room <= 0 or len(records) == limit
        next_offset = records[-1].offset + 1 if more and records else max(end, place.offset)
        stretches.append(_Stretch(records, next_offset, start))
    return stretches


class SqliteReader(Reader):
    """See Reader. What retention deletes before it was read is passed over: a reader has promised nothing to anybody."""

    def __init__(
        self, writer: LogWriter, view: LogView, reads: ReadThread, topic: str, places: Sequence[tuple[int, int, int]]
    ) -> None:
        self._writer = writer
        self._view = view
        self._topic = topic
        self._closed = False
        self._positions = _Positions(
            view,
            reads,
            [
                _Place(partition_id, TopicPartition(topic, partition), offset)
                for partition_id, partition, offset in places
            ],
            group=None,
        )

    async def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        deadline = asyncio.get_running_loop().time() + timeout_s
        await asyncio.sleep(0)  # a poll answered from memory must not starve the other tasks
        while True:
            turn = self._view.turn
            if self._closed or self._writer.closed:
                raise Unavailable(f"the reader of '{self._topic}' is closed")
            if records := await self._positions.take(max_records, None, ()):
                return records
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return []
            await self._view.wait((self._topic,), left, turn)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._writer.watching -= 1
            self._view.wake_all()


class SqliteConsumer(Consumer):
    """See Consumer. Membership is the writer's thread: it renews the lease whatever the event loop does."""

    def __init__(
        self,
        writer: LogWriter,
        view: LogView,
        reads: ReadThread,
        me: Membership,
        topics: Sequence[str],
        linger_s: float,
    ) -> None:
        self._linger_s = linger_s
        self.epoch = 0
        self.assignment: Mapping[TopicPartition, Committed] = {}
        self._writer = writer
        self._view = view
        self._reads = reads
        self._me = me
        self._topics = list(topics)
        self._ids: Mapping[TopicPartition, int] = {}
        self._positions = _Positions(view, reads, (), group=me.group)
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
        # Without any sleep a poll answered from memory would starve the other tasks.
        await asyncio.sleep(min(self._linger_s, timeout_s))
        while True:
            turn = self._view.turn
            if self._closed or self._writer.closed:
                raise Unavailable(f"the consumer '{self._me.member}' of group '{self._me.group}' is closed")
            if self._me.session in self._view.replaced:
                name, group = self._me.member, self._me.group
                raise Fenced(
                    f"another process has joined group '{group}' as '{name}': give each member a name of its own"
                )
            if self._view.epochs.get(self._me.group, 0) > self.epoch and await self._adopt():
                return []
            if records := await self._positions.take(max_records, topics, paused):
                return records
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return []
            await self._view.wait(self._topics if topics is None else topics, left, turn)

    async def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        session, group, epoch = self._me.session, self._me.group, self.epoch
        check_metadata(offsets)
        if self._closed or not self._ids.keys() >= offsets.keys():
            raise Fenced(f"group '{group}': a commit for partitions that are not this member's")
        rows = [(self._ids[topic_partition], committed) for topic_partition, committed in offsets.items()]
        await self._writer.run(lambda connection: commit(connection, session, group, epoch, rows))

    def holds(self) -> bool:
        return self._writer.leases_last() and self._view.epochs.get(self._me.group, 0) == self.epoch

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writer.watching -= 1
        self._writer.memberships.pop(self._me.session, None)
        self._view.wake_all()
        with suppress(Unavailable, StorageFull):  # a closed log has left for us, otherwise the lease runs out
            await self._writer.run(self._writer.leave(self._me.session))

    async def _adopt(self) -> bool:
        """Takes over the group's present epoch; False while the group goes on without this member (the heartbeat joins
        again).
        """
        assignment = await self._reads.run(lambda connection: read_assignment(connection, self._me))
        if assignment is None or assignment.epoch == self.epoch:
            return False
        self.epoch = assignment.epoch
        self.assignment = {each.topic_partition: each.committed for each in assignment.partitions}
        self._ids = {each.topic_partition: each.partition_id for each in assignment.partitions}
        places = [
            _Place(each.partition_id, each.topic_partition, each.committed.offset) for each in assignment.partitions
        ]
        self._positions = _Positions(self._view, self._reads, places, group=self._me.group)
        return True
