"""The embedded log: a durable partitioned log in one SQLite file, for any number of processes on one machine.

This file implements the port with the others of this folder: log_writer.py appends, in a thread; log_consumer.py reads;
log_view.py wakes the readers and keeps fresh records in memory; log_groups.py assigns partitions to members;
log_retention.py deletes; log_schema.py has the tables.
"""

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from backends.log import (
    Consumer,
    EventLog,
    Member,
    NewRecord,
    Reader,
    TopicPartition,
    TopicSpec,
    partition_of_record,
)
from backends.log_checks import partition_count_mismatch
from backends.sqlite.log_consumer import SqliteConsumer, SqliteReader
from backends.sqlite.log_groups import Membership, read_commits, read_members, read_start_offsets
from backends.sqlite.log_retention import enforce
from backends.sqlite.log_schema import record_id
from backends.sqlite.log_view import LogView
from backends.sqlite.log_writer import LogWriter, RoutedRecord
from backends.sqlite.threads import ReadThread
from schemas.errors import InvalidRequest, StorageFull, TopicMismatch, Unavailable


class _Topic(NamedTuple):
    first_id: int
    partitions: int


class SqliteLog(EventLog):
    """See EventLog. It belongs to one event loop, and opens its file at its first use.

    `lease_s`: how long a member that was killed keeps its partitions. `clock` gives seconds since the epoch.
    """

    def __init__(self, path: Path, *, lease_s: float = 4.0, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._view = LogView()
        self._writer = LogWriter(path, self._view, lease_s=lease_s, clock=clock)
        self._reads = ReadThread(path, name="log-reads")
        self._topics: dict[str, _Topic] = {}
        self._opened = False

    def __repr__(self) -> str:
        return f"SqliteLog({str(self._path)!r})"

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        await self._writer.run(self._writer.create_topics(specs))

    async def require_topics(self, specs: Sequence[TopicSpec]) -> None:
        for spec in specs:
            try:
                topic = await self._topic(spec.name)
            except InvalidRequest as missing:
                raise TopicMismatch(f"{missing.message}: `facestream init` creates the topics") from None
            if topic.partitions != spec.partitions:
                raise partition_count_mismatch(spec, topic.partitions)

    async def append(self, records: Sequence[NewRecord]) -> list[TopicPartition]:
        routed = [await self._route(record) for record in records]
        if routed:
            await self._writer.run(self._writer.append(routed))
        return [TopicPartition(each.record.topic, each.partition) for each in routed]

    async def _route(self, record: NewRecord) -> RoutedRecord:
        topic = self._topics.get(record.topic) or await self._topic(record.topic)
        partition = partition_of_record(record, topic.partitions)
        return RoutedRecord(topic.first_id + partition, partition, record)

    async def consumer(self, group: str, topics: Sequence[str], *, member: str, linger_s: float = 0.0) -> Consumer:
        for topic in topics:
            await self._topic(topic)
        membership = Membership(uuid.uuid4().hex, group, member, json.dumps(sorted(set(topics))))
        self._writer.reader_count += 1
        try:
            await self._writer.run(self._writer.join(membership))
        except BaseException:
            self._writer.reader_count -= 1
            raise
        self._writer.memberships[membership.session] = membership
        return SqliteConsumer(self._writer, self._view, self._reads, membership, topics, linger_s)

    async def reader(
        self, topic: str, *, at: Literal["start", "end"] | Mapping[int, int], partitions: Collection[int] | None = None
    ) -> Reader:
        first_id, count = await self._topic(topic)
        if not isinstance(at, str):
            partitions = at.keys()
        wanted = range(count) if partitions is None else sorted(set(partitions))
        if not set(wanted) <= set(range(count)):
            raise InvalidRequest(f"topic '{topic}' has partitions 0 to {count - 1}, not {', '.join(map(str, wanted))}")
        self._writer.reader_count += 1
        try:
            # In this empty transaction the writer notices what other processes have appended.
            await self._writer.run(lambda connection: None)
            if isinstance(at, str):
                read = read_start_offsets if at == "start" else _read_end_offsets
                offsets = await self._reads.run(lambda connection: read(connection, first_id, count))
            else:
                offsets = {first_id + partition: offset for partition, offset in at.items()}
        except BaseException:
            self._writer.reader_count -= 1
            raise
        positions = [(first_id + partition, partition, offsets[first_id + partition]) for partition in wanted]
        return SqliteReader(self._writer, self._view, self._reads, topic, positions)

    async def partitions(self, topic: str) -> int:
        return (await self._topic(topic)).partitions

    async def unused_partitions(self) -> dict[TopicPartition, int]:
        """Empty: nobody can add partitions."""
        return {}

    async def start_offsets(self, topic: str) -> dict[int, int]:
        first_id, count = await self._topic(topic)
        starts = await self._reads.run(lambda connection: read_start_offsets(connection, first_id, count))
        return {partition_id - first_id: start for partition_id, start in starts.items()}

    async def end_offsets(self, topic: str) -> dict[int, int]:
        first_id, count = await self._topic(topic)
        ends = await self._reads.run(lambda connection: _read_end_offsets(connection, first_id, count))
        return {partition_id - first_id: end for partition_id, end in ends.items()}

    async def held_offsets(self, topic: str) -> dict[int, int]:
        """Empty: there are no transactions of other systems."""
        await self._topic(topic)
        return {}

    async def group_members(self, group: str) -> list[Member]:
        await self._open()
        now = self._writer.now()
        return await self._reads.run(lambda connection: read_members(connection, group, now))

    async def group_offsets(self, group: str, topic: str) -> dict[int, int]:
        first_id, count = await self._topic(topic)
        offsets = await self._reads.run(lambda connection: _read_group_offsets(connection, group, first_id, count))
        return {partition_id - first_id: offset for partition_id, offset in offsets.items()}

    async def lag(self, group: str, topic: str) -> dict[int, int]:
        first_id, count = await self._topic(topic)

        def read(connection: sqlite3.Connection) -> dict[int, int]:
            offsets = _read_group_offsets(connection, group, first_id, count)
            ends = _read_end_offsets(connection, first_id, count)
            return {each - first_id: end - offsets[each] for each, end in ends.items()}

        return await self._reads.run(read)

    async def oldest_uncommitted_ms(self, group: str, topic: str) -> int | None:
        first_id, count = await self._topic(topic)

        def read(connection: sqlite3.Connection) -> int | None:
            committed = read_commits(connection, group)
            firsts = [
                connection.execute(
                    "SELECT timestamp FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT 1",
                    (record_id(each, committed[each].offset if each in committed else 0), record_id(each + 1, 0)),
                ).fetchone()
                for each in range(first_id, first_id + count)
            ]
            return min((row[0] for row in firsts if row is not None), default=None)

        return await self._reads.run(read)

    async def enforce_retention(self) -> None:
        await self._open()
        if await enforce(self._writer, self._reads):
            self._view.forget()
            await self._writer.empty_wal()

    async def ping(self) -> None:
        await self._open()
        await self._reads.run(lambda connection: connection.execute("SELECT 1 FROM topics LIMIT 1").fetchone())

    async def close(self) -> None:
        for session in list(self._writer.memberships):
            self._writer.memberships.pop(session)
            with suppress(Unavailable, StorageFull):  # then its lease expires
                await self._writer.run(self._writer.leave(session))
        await self._writer.close()
        self._view.wake_all()
        await self._reads.close()

    async def _open(self) -> None:
        """Has the writer create the file and its tables, which the read thread needs."""
        if not self._opened:
            await self._writer.run(lambda connection: None)
            self._opened = True

    async def _topic(self, name: str) -> _Topic:
        # A topic is never deleted, and its partitions never change. But another process may just have created one.
        if name not in self._topics:
            await self._open()
            rows = await self._reads.run(
                lambda connection: connection.execute("SELECT name, first_id, partitions FROM topics").fetchall()
            )
            self._topics.update({topic: _Topic(first_id, count) for topic, first_id, count in rows})
        if name not in self._topics:
            raise InvalidRequest(f"there is no topic '{name}': create the topics first (facestream init)")
        return self._topics[name]


def _read_group_offsets(connection: sqlite3.Connection, group: str, first_id: int, count: int) -> dict[int, int]:
    committed = read_commits(connection, group)
    return {
        each: max(start, committed[each].offset if each in committed else 0)
        for each, start in read_start_offsets(connection, first_id, count).items()
    }


def _read_end_offsets(connection: sqlite3.Connection, first_id: int, count: int) -> dict[int, int]:
    return dict(
        connection.execute(
            "SELECT id, next_offset FROM partitions WHERE id >= ? AND id < ?", (first_id, first_id + count)
        )
    )
