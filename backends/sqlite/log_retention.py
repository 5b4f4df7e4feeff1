"""Deletes from the embedded log: by age, and by key in compacted topics.

It works in small steps, each a short transaction, so that appends continue meanwhile. Offsets do not change: a step
leaves a later start offset, or a gap. Deleted records are overwritten in the file (secure_delete), and the WAL is
truncated at the end.
"""

import sqlite3
from typing import NamedTuple

from backends.sqlite.log_schema import offset_of, record_id
from backends.sqlite.log_writer import LogWriter
from backends.sqlite.threads import ReadThread

# A step delays the appends by about 5 ms: measured with records of 500 B and of 1 MB.
STEP_RECORDS = 500
STEP_BYTES = 2 << 20
TOMBSTONE_MS = 24 * 3600 * 1000


class _ExpiredRange(NamedTuple):
    """The records of a partition before `start_offset` have expired."""

    partition_id: int
    start_offset: int


async def enforce(writer: LogWriter, reads: ReadThread) -> bool:
    """Applies every topic's retention and compaction. Returns whether anything was deleted."""
    deleted = False
    now = writer.now()
    # The read thread searches, so that a log with nothing to delete does not keep its writer busy.
    while expired := await reads.run(lambda connection: _find_expired(connection, now)):
        await writer.run(lambda connection: _delete_expired(connection, expired))
        deleted = True
    while dirty := await reads.run(_find_dirty):
        deleted |= await writer.run(lambda connection: _compact(connection, dirty))
    while await reads.run(lambda connection: _find_tombstones(connection, now - TOMBSTONE_MS)):
        await writer.run(lambda connection: _delete_tombstones(connection, now - TOMBSTONE_MS))
        deleted = True
    return deleted


def _find_expired(connection: sqlite3.Connection, now: int) -> list[_ExpiredRange]:
    """The expired records, no more than one step may delete. Records that a group has not committed past are kept: a
    clock that is wrong for a moment must not delete them.
    """
    commits = dict(connection.execute("SELECT partition_id, MIN(next_offset) FROM commits GROUP BY partition_id"))
    expired = []
    records, size = 0, 0
    for first_id, count, retention_s in connection.execute(
        "SELECT first_id, partitions, retention_s FROM topics WHERE retention_s IS NOT NULL"
    ).fetchall():
        before = now - int(retention_s * 1000)
        for partition_id in range(first_id, first_id + count):
            last = None
            committed = commits.get(partition_id)
            end = record_id(partition_id + 1, 0) if committed is None else record_id(partition_id, committed)
            # Append times never decrease within a partition: the first record that is young enough ends the search.
            for row, timestamp, length in connection.execute(
                "SELECT id, timestamp, COALESCE(LENGTH(value), 0) FROM records WHERE id >= ? AND id < ? ORDER BY id",
                (record_id(partition_id, 0), end),
            ):
                if timestamp >= before or records >= STEP_RECORDS or size >= STEP_BYTES:
                    break
                last, records, size = row, records + 1, size + length
            if last is not None:
                expired.append(_ExpiredRange(partition_id, offset_of(last) + 1))
    return expired


def _delete_expired(connection: sqlite3.Connection, expired: list[_ExpiredRange]) -> None:
    for partition_id, start in expired:
        connection.execute(
            "DELETE FROM records WHERE id >= ? AND id < ?", (record_id(partition_id, 0), record_id(partition_id, start))
        )
        connection.execute(
            "UPDATE partitions SET start_offset = MAX(start_offset, ?), compacted_to = MAX(compacted_to, ?)"
            " WHERE id = ?",
            (start, start, partition_id),
        )
        connection.execute(
            "DELETE FROM latest WHERE partition_id = ? AND record_id < ?",
            (partition_id, record_id(partition_id, start)),
        )


def _find_dirty(connection: sqlite3.Connection) -> list[int]:
    """Partitions of compacted topics with records that are not in `latest` yet."""
    rows = connection.execute(
        "SELECT id FROM topics JOIN partitions ON id >= first_id AND id < first_id + partitions"
        " WHERE compacted AND compacted_to < next_offset"
    )
    return [partition_id for (partition_id,) in rows]


def _compact(connection: sqlite3.Connection, dirty: list[int]) -> bool:
    deleted = False
    room = STEP_RECORDS
    for partition_id in dirty:
        if room <= 0:
            break
        compacted_to, end = connection.execute(
            "SELECT compacted_to, next_offset FROM partitions WHERE id = ?", (partition_id,)
        ).fetchone()
        rows = connection.execute(
            "SELECT id, timestamp, key, value IS NULL FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (record_id(partition_id, compacted_to), record_id(partition_id, end), room),
        ).fetchall()
        for row, timestamp, key, tombstone in rows:
            older = connection.execute(
                "SELECT record_id FROM latest WHERE partition_id = ? AND key = ? AND record_id < ?",
                (partition_id, key, row),
            ).fetchone()
            if older is not None:
                connection.execute("DELETE FROM records WHERE id = ?", older)
                deleted = True
            connection.execute(
                "INSERT INTO latest (partition_id, key, record_id, tombstone_since) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET record_id = excluded.record_id, tombstone_since = excluded.tombstone_since",
                (partition_id, key, row, timestamp if tombstone else None),
            )
        done = offset_of(rows[-1][0]) + 1 if len(rows) == room else end
        connection.execute("UPDATE partitions SET compacted_to = ? WHERE id = ?", (done, partition_id))
        room -= len(rows)
    return deleted


def _find_tombstones(connection: sqlite3.Connection, before: int) -> bool:
    return (
        connection.execute("SELECT 1 FROM latest WHERE tombstone_since < ? LIMIT 1", (before,)).fetchone() is not None
    )


def _delete_tombstones(connection: sqlite3.Connection, before: int) -> None:
    # Also if the key has a newer record since the last compaction: the next one would delete this one anyway.
    gone = connection.execute(
        "SELECT partition_id, key, record_id FROM latest WHERE tombstone_since < ? LIMIT ?", (before, STEP_RECORDS)
    ).fetchall()
    connection.executemany("DELETE FROM records WHERE id = ?", [(row,) for _, _, row in gone])
    connection.executemany(
        "DELETE FROM latest WHERE partition_id = ? AND key = ?", [(each[0], each[1]) for each in gone]
    )
