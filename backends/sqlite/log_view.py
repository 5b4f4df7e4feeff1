"""What this process knows of the log without asking SQLite, and who waits for more.

Lives on the event loop: the writer's thread hands over its news with each commit. With it an append wakes the consumers
of its topic, and a poll of fresh records is answered from memory: one thread hop between an append and its consumers,
not three.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from backends.log import Record

# Fresh records kept in memory. At 1 kB each it is the last second of a very busy log.
TAIL_BYTES = 32 << 20
# A Record with its key, beside its value: measured with sys.getsizeof, rounded up.
RECORD_OVERHEAD = 300


@dataclass(slots=True)
class News:
    """One commit: what others had written before it (`ends`, of all partitions), and what it wrote itself (`fresh`).
    `epochs` are those of all groups, where any may have changed.
    """

    fresh: Sequence[tuple[int, Record]] = ()
    ends: Mapping[int, int] | None = None
    epochs: Mapping[str, int] | None = None
    replaced: Collection[str] = ()


@dataclass(slots=True)
class LogView:
    """`ends`: next offset by partition id. `epochs`: by group. `replaced`: sessions whose name another process has
    taken. `turn` grows with whatever may concern somebody who waits.
    """

    ends: dict[int, int] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    turn: int = 0
    _tails: dict[int, dict[int, Record]] = field(default_factory=dict)
    _oldest: deque[tuple[int, int, int]] = field(default_factory=deque)
    _bytes: int = 0
    _waiting: dict[str, set[asyncio.Future[None]]] = field(default_factory=dict)

    def apply(self, news: News) -> None:
        """Takes the news over and wakes whom they concern."""
        if news.ends is not None:
            self.ends.update(news.ends)
        topics = {record.topic for _, record in news.fresh}
        for partition_id, record in news.fresh:
            self.ends[partition_id] = record.offset + 1
            self._keep(partition_id, record)
        if news.epochs is not None:
            self.epochs.update(news.epochs)
        self.replaced.update(news.replaced)
        if news.ends is not None or news.epochs is not None or news.replaced:
            self.wake_all()
        else:
            self.turn += 1
            self._wake(topics)

    def tail(self, partition_id: int, offset: int, limit: int) -> list[Record]:
        """The records from that offset on as far as they are in memory; [] where that one is not."""
        tail = self._tails.get(partition_id)
        records: list[Record] = []
        if tail:
            while len(records) < limit and (record := tail.get(offset)) is not None:
                records.append(record)
                offset += 1
        return records

    def forget(self) -> None:
        """Drops the records in memory: some of them were deleted from the log."""
        self._tails.clear()
        self._oldest.clear()
        self._bytes = 0

    async def wait(self, topics: Collection[str], timeout_s: float, turn: int) -> None:
        """Until something is appended to one of the topics, or the group may have changed, or the time is over.

        Returns at once when there was any news since `turn`: it may have come while the caller was waiting for SQLite.
        """
        if turn != self.turn:
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
        self.turn += 1
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
