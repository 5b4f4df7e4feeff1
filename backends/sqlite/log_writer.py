"""The thread that writes the embedded log: appends, offset commits and heartbeats, many in one transaction.

It keeps the next offset of every partition in memory. SQLite's `data_version` tells it that another process has
written. It checks that in each transaction and, while this process has readers, between transactions.
"""

import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backends.log import NewRecord, Record, TopicSpec
from backends.log_checks import partition_count_mismatch
from backends.sqlite.log_groups import Membership, join, leave, read_epochs, renew
from backends.sqlite.log_schema import VERSIONS, decode_key, encode_headers, encode_key, record_id
from backends.sqlite.log_view import LogChanges, LogView
from backends.sqlite.threads import GroupWriter, Operation, QueuedOperation

# How often the thread looks for records of other processes while this process has readers.
FOREIGN_CHECK_S = 0.05


@dataclass(slots=True)
class _PartitionEnd:
    next_offset: int
    last_timestamp: int


@dataclass(frozen=True, slots=True)
class RoutedRecord:
    """A record to append and the partition it goes to."""

    partition_id: int
    partition: int
    record: NewRecord


class LogWriter(GroupWriter):
    """Appends, commits offsets, and keeps the memberships of this process in groups.

    `reader_count`: how many readers and consumers this process has. `memberships`: its members of groups by session,
    whose leases it renews.
    """

    def __init__(self, path: Path, view: LogView, *, lease_s: float, clock: Callable[[], float]) -> None:
        super().__init__(path, VERSIONS, name="log-writer")
        self.reader_count = 0
        self.memberships: dict[str, Membership] = {}
        self._view = view
        self._lease_s = lease_s
        self._renewing_at = self._renewed_at = -math.inf
        self._clock = clock
        self._partition_ends: dict[int, _PartitionEnd] = {}
        self._version: int | None = None
        self._written: set[int] = set()
        self._changes = LogChanges()
        self._fresh: list[tuple[int, Record]] = []
        self._next_check = 0.0
        self._next_heartbeat = 0.0

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return int(self._clock() * 1000)

    def append(self, records: Sequence[RoutedRecord]) -> Operation[None]:
        def operation(connection: sqlite3.Connection) -> None:
            now = self.now()
            rows = []
            for routed in records:
                end = self._partition_ends[routed.partition_id]
                offset, end.next_offset = end.next_offset, end.next_offset + 1
                end.last_timestamp = max(end.last_timestamp, now)
                new, timestamp, key = routed.record, end.last_timestamp, encode_key(routed.record.key)
                row = record_id(routed.partition_id, offset)
                rows.append((row, timestamp, key, new.value, encode_headers(new.headers)))
                place = new.topic, routed.partition, offset
                record = Record(*place, timestamp, decode_key(key), new.value, tuple(new.headers))
                self._fresh.append((routed.partition_id, record))
                self._written.add(routed.partition_id)
            connection.executemany(
                "INSERT INTO records (id, timestamp, key, value, headers) VALUES (?, ?, ?, ?, ?)", rows
            )

        return operation

    def create_topics(self, specs: Sequence[TopicSpec]) -> Operation[None]:
        def operation(connection: sqlite3.Connection) -> None:
            known = dict(connection.execute("SELECT name, partitions FROM topics").fetchall())
            for spec in specs:
                if known.get(spec.name, spec.partitions) != spec.partitions:
                    raise partition_count_mismatch(spec, known[spec.name])
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
                    self._partition_ends.update({each: _PartitionEnd(0, 0) for each in ids})

        return operation

    def join(self, me: Membership) -> Operation[None]:
        def operation(connection: sqlite3.Connection) -> None:
            self._renewing_at = time.monotonic()
            join(connection, me, self.now(), self._lease_ms)
            self._changes.epochs = read_epochs(connection)

        return operation

    def leave(self, session: str) -> Operation[None]:
        def operation(connection: sqlite3.Connection) -> None:
            leave(connection, session)
            self._changes.epochs = read_epochs(connection)

        return operation

    def leases_are_valid(self) -> bool:
        """Whether the leases of this process's members are still valid."""
        return time.monotonic() - self._renewed_at < self._lease_s

    @property
    def _lease_ms(self) -> int:
        return int(self._lease_s * 1000)

    # In the transaction.

    def _on_begin(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._load(connection)
            self._version = version

    def _load(self, connection: sqlite3.Connection) -> None:
        self._partition_ends = {
            partition_id: _PartitionEnd(next_offset, last_timestamp)
            for partition_id, next_offset, last_timestamp in connection.execute(
                "SELECT id, next_offset, last_timestamp FROM partitions"
            )
        }
        self._changes.ends = {partition_id: end.next_offset for partition_id, end in self._partition_ends.items()}
        self._changes.epochs = read_epochs(connection)

    def _before_commit(self, connection: sqlite3.Connection) -> None:
        connection.executemany(
            "UPDATE partitions SET next_offset = ?, last_timestamp = ? WHERE id = ?",
            [
                (self._partition_ends[each].next_offset, self._partition_ends[each].last_timestamp, each)
                for each in self._written
            ],
        )

    def _on_commit(self) -> Callable[[], None] | None:
        self._renewed_at = self._renewing_at
        changes, self._changes = self._changes, LogChanges()
        changes.fresh, self._fresh = self._fresh, []
        self._written.clear()
        for session in changes.replaced:
            self.memberships.pop(session, None)
        if not (changes.fresh or changes.replaced or changes.ends is not None or changes.epochs is not None):
            return None
        return lambda: self._view.apply(changes)

    def _on_rollback(self) -> None:
        self._renewing_at = self._renewed_at
        self._changes = LogChanges()
        self._fresh = []
        self._written.clear()
        self._version = None

    # Between transactions.

    def _due(self) -> float | None:
        if not self.reader_count and not self.memberships:
            return None
        return min(self._next_check, self._next_heartbeat if self.memberships else self._next_check) - time.monotonic()

    def _tick(self) -> None:
        now = time.monotonic()
        if self.memberships and now >= self._next_heartbeat:
            # Four attempts within a lease. If one fails, the next append or commit raises the error to its caller.
            self._next_heartbeat = now + self._lease_s / 4
            self._execute([QueuedOperation(self._heartbeat, None)])
            self._next_check = now + FOREIGN_CHECK_S
        elif now >= self._next_check:
            self._next_check = now + FOREIGN_CHECK_S
            self._check_for_foreign_writes()

    def _heartbeat(self, connection: sqlite3.Connection) -> None:
        self._renewing_at = time.monotonic()
        self._changes.replaced = renew(connection, list(self.memberships.values()), self.now(), self._lease_ms)
        self._changes.epochs = read_epochs(connection)

    def _check_for_foreign_writes(self) -> None:
        if self._connection is None:
            return
        with suppress(sqlite3.Error):  # the next read or write raises it
            if self._connection.execute("PRAGMA data_version").fetchone()[0] == self._version:
                return
            self._connection.execute("BEGIN")
            try:
                self._on_begin(self._connection)
            finally:
                self._connection.execute("COMMIT")
            self._deliver(self._on_commit(), [])
