"""The state of the log in memory: recent records, end offsets, epochs, and the waiting polls.

It belongs to the event loop; the writer's thread hands over the changes of each commit. So an append wakes the
consumers of its topic, and recent records are polled from memory. From an append to its consumers there is one switch
between threads, not three.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from backends.log import Record

# Bytes of recent records that are kept in memory. At 1 kB per record, that is the last second of a very busy log.
TAIL_BYTES = 32 << 20
# A Record with its key, beside its value: measured with sys.getsizeof, rounded up.
RECORD_OVERHEAD = 300


@dataclass(slots=True)
class LogChanges:
    """The changes that came with one commit of this process.

    `fresh`: the appended records, by partition id. `ends`: the end offsets of all partitions, if other processes have
    written before the commit. `epochs`: the epochs of all groups, if any may have changed. `replaced`: sessions whose
    name another process has taken.
    """

    fresh: Sequence[tuple[int, Record]] = ()
    ends: Mapping[int, int] | None = None
    epochs: Mapping[str, int] | None = None
    replaced: Collection[str] = ()


@dataclass(slots=True)
class LogView:
    """What this process knows of the log as of its last commit.

    `ends`: the next offset by partition id. `epochs`: the epoch by group. `replaced`: sessions whose name another
    process has taken. `change_count` increases with each change that may concern a waiting poll.
    """

    ends: dict[int, int] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    change_count: int = 0
    _tails: dict[int, dict[int, Record]] = field(default_factory=dict)
    _oldest: deque[tuple[int, int, int]] = field(default_factory=deque)
    _bytes: int = 0
    _waiting: dict[str, set[asyncio.Future[None]]] = field(default_factory=dict)

    def apply(self, changes: LogChanges) -> None:
        """Applies the changes of a commit and wakes the polls that they concern."""
        if changes.ends is not None:
            self.ends.update(changes.ends)
        topics = {record.topic for _, record in changes.fresh}
        for partition_id, record in changes.fresh:
            self.ends[partition_id] = record.offset + 1
            self._keep(partition_id, record)
        if changes.epochs is not None:
            self.epochs.update(changes.epochs)
        self.replaced.update(changes.replaced)
        if changes.ends is not None or changes.epochs is not None or changes.replaced:
            self.wake_all()
        else:
            self.change_count += 1
            self._wake(topics)

    def tail(self, partition_id: int, offset: int, limit: int) -> list[Record]:
        """The records from that offset on, as far as they are in memory; [] if the first is not."""
        tail = self._tails.get(partition_id)
        records: list[Record] = []
        if tail:
            while len(records) < limit and (record := tail.get(offset)) is not None:
                records.append(record)
                offset += 1
        return records

    def forget(self) -> None:
        """Drops the records in memory, after some of them were deleted from the log."""
        self._tails.clear()
        self._oldest.clear()
        self._bytes = 0

    async def wait(self, topics: Collection[str], timeout_s: float, change_count: int) -> None:
        """Waits for a record in one of the topics, or a change of a group, for `timeout_s` at most.

        Returns at once if something has changed since `change_count`, for example while the caller was reading from
        SQLite.
        """
        if change_count != self.change_count:
            return
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        for topic in topics:
            self._waiting.setdefault(topic, set()).add(woken)
        timer = loop.call_later(timeout_s, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()
            for topic in topics:
                self._waiting[topic].discard(woken)

    def wake_all(self) -> None:
        self.change_count += 1
        self._wake(self._waiting)

    def _wake(self, topics: Collection[str]) -> None:
        for topic in topics:
            for woken in self._waiting.get(topic, ()):
                _wake(woken)

    def _keep(self, partition_id: int, record: Record) -> None:
        size = RECORD_OVERHEAD + len(record.value or b"")
        self._tails.setdefault(partition_id, {})[record.offset] = record
        self._oldest.append((partition_id, record.offset, size))
        self._bytes += size
        while self._bytes > TAIL_BYTES:
            old_partition, old_offset, old_size = self._oldest.popleft()
            with suppress(KeyError):
                del self._tails[old_partition][old_offset]
            self._bytes -= old_size


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
