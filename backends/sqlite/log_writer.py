"""The thread that writes the embedded log: appends, offset commits and heartbeats, many in one transaction.

It holds the next offset of every partition in memory, and notices by SQLite's `data_version` when another process has
written: inside each transaction, and between them as long as somebody in this process is reading.
"""

import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backends.log import NewRecord, Record, TopicSpec, mismatch
from backends.sqlite.log_groups import Membership, join, leave, read_epochs, renew
from backends.sqlite.log_schema import SCHEMA, record_id
from backends.sqlite.threads import GroupWriter, Operation, Waiting
from backends.sqlite.log_view import LogView, News

# How soon the records of another process are noticed while this one reads.
FOREIGN_CHECK_S = 0.05


@dataclass(slots=True)
class _Head:
    next_offset: int
    last_timestamp: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A record to append and the partition it goes to."""

    partition_id: int
    partition: int
    record: NewRecord


class LogWriter(GroupWriter):
    """`watching`: how many readers and consumers this process has. `memberships`: its lives in groups, whose leases it
    renews.
    """

    def __init__(self, path: Path, view: LogView, *, lease_s: float, clock: Callable[[], float]) -> None:
        super().__init__(path, SCHEMA, name="log-writer")
        self.watching = 0
        self.memberships: dict[str, Membership] = {}
        self._view = view
        self._lease_s = lease_s
        self._renewing_at = self._renewed_at = -math.inf
        self._clock = clock
        self._heads: dict[int, _Head] = {}
        self._version: int | None = None
        self._touched: set[int] = set()
        self._news = News()
        self._fresh: list[tuple[int, Record]] = []
        self._next_check = 0.0
        self._next_heartbeat = 0.0

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return int(self._clock() * 1000)

    def append(self, records: Sequence[Placed]) -> Operation[None]:
        def operation(connection: sqlite3.Connection) -> None:
            now = self.now()
            rows = []
            for placed in records:
                head = self._heads[placed.partition_id]
                offset, head.next_offset = head.next_offset, head.next_offset + 1
                head.last_timestamp = max(head.last_timestamp, now)
                new = placed.record
                rows.append((record_id(placed.partition_id, offset), head.last_timestamp, new.key, new.value))
                record = Record(new.topic, placed.partition, offset, head.last_timestamp, new.key, new.value)
                self._fresh.append((placed.partition_id, record))
                self._touched.add(placed.partition_id)
            connection.executemany("INSERT INTO records (id, timestamp, key, value) VALUES (?, ?, ?, ?)", rows)

        return operation

    def create_topics(self, specs: Sequence[TopicSpec]) -> Operation[None]:
        def operation(connection: sqlite3.Connection) -> None:
            known = dict(connection.execute("SELECT name, partitions FROM topics").fetchall())
            for spec in specs:
                if known.get(spec.name, spec.partitions) != spec.partitions:
                    raise mismatch(spec, known[spec.name])
            for spec in specs:
                first_id = connection.execute("SELECT COALESCE(MAX(id) + 1, 0) FROM partitions").fetchone()[0]
                connection.execute(
                    "INSERT INTO topics (name, partitions, first_id, retention_s, compacted) VALUES (?, ?, ?, ?, ?)"
                    " ON CONFLICT DO UPDATE SET retention_s = excluded.retention_s, compacted = excluded.compacted",
                    (spec.name, spec.partitions, first_id, spec.retention_s, spec.compacted),
                )
                if spec.name not in known:
                    known[spec.name] = spec.partitions
                    ids = range(first_id, first_id + spec.partitions)
                    connection.executemany("INSERT INTO partitions (id) VALUES (?)", [(each,) for each in ids])
                    self._heads.update({each: _Head(0, 0) for each in ids})

        return operation

    def join(self, me: Membership) -> Operation[None]:
        def operation(connection: sqlite3.Connection) -> None:
            self._renewing_at = time.monotonic()
            join(connection, me, self.now(), self._lease_ms)
            self._news.epochs = read_epochs(connection)

        return operation

    def leave(self, session: str) -> Operation[None]:
        def operation(connection: sqlite3.Connection) -> None:
            leave(connection, session)
            self._news.epochs = read_epochs(connection)

        return operation

    def leases_last(self) -> bool:
        """Whether the leases of this process's memberships are not over yet."""
        return time.monotonic() - self._renewed_at < self._lease_s

    @property
    def _lease_ms(self) -> int:
        return int(self._lease_s * 1000)

    # In the transaction.

    def _begun(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._load(connection)
            self._version = version

    def _load(self, connection: sqlite3.Connection) -> None:
        self._heads = {
            partition_id: _Head(next_offset, last_timestamp)
            for partition_id, next_offset, last_timestamp in connection.execute(
                "SELECT id, next_offset, last_timestamp FROM partitions"
            )
        }
        self._news.ends = {partition_id: head.next_offset for partition_id, head in self._heads.items()}
        self._news.epochs = read_epochs(connection)

    def _before_commit(self, connection: sqlite3.Connection) -> None:
        connection.executemany(
            "UPDATE partitions SET next_offset = ?, last_timestamp = ? WHERE id = ?",
            [(self._heads[each].next_offset, self._heads[each].last_timestamp, each) for each in self._touched],
        )

    def _committed(self) -> Callable[[], None] | None:
        self._renewed_at = self._renewing_at
        news, self._news = self._news, News()
        news.fresh, self._fresh = self._fresh, []
        self._touched.clear()
        for session in news.replaced:
            self.memberships.pop(session, None)
        if not (news.fresh or news.replaced or news.ends is not None or news.epochs is not None):
            return None
        return lambda: self._view.apply(news)

    def _rolled_back(self) -> None:
        self._renewing_at = self._renewed_at
        self._news = News()
        self._fresh = []
        self._touched.clear()
        self._version = None

    # Between transactions.

    def _due(self) -> float | None:
        if not self.watching and not self.memberships:
            return None
        return min(self._next_check, self._next_heartbeat if self.memberships else self._next_check) - time.monotonic()

    def _tick(self) -> None:
        now = time.monotonic()
        if self.memberships and now >= self._next_heartbeat:
            # Four chances before the lease is over. If this fails, the next append or commit tells its caller why.
            self._next_heartbeat = now + self._lease_s / 4
            self._execute([Waiting(self._heartbeat, None)])
            self._next_check = now + FOREIGN_CHECK_S
        elif now >= self._next_check:
            self._next_check = now + FOREIGN_CHECK_S
            self._look_for_others()

    def _heartbeat(self, connection: sqlite3.Connection) -> None:
        self._renewing_at = time.monotonic()
        self._news.replaced = renew(connection, list(self.memberships.values()), self.now(), self._lease_ms)
        self._news.epochs = read_epochs(connection)

    def _look_for_others(self) -> None:
        if self._connection is None:
            return
        with suppress(sqlite3.Error):  # whoever reads or writes next is told
            if self._connection.execute("PRAGMA data_version").fetchone()[0] == self._version:
                return
            self._connection.execute("BEGIN")
            try:
                self._begun(self._connection)
            finally:
                self._connection.execute("COMMIT")
            self._tell(self._committed(), [])
