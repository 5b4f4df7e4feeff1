"""The tables of the embedded log, how a record's partition and offset make its row number, and how its key and headers
are stored.

Records are in one table, ordered by partition and offset, so that a poll, and the retention of a partition, read one
range of rows. Both numbers are packed into the row number, because SQLite stores rows of some kB twice as densely in
such a table as under a composite key.
"""

import json
from collections.abc import Sequence

from schemas.event import Header

_VERSION_1 = """
CREATE TABLE IF NOT EXISTS topics (
    name TEXT PRIMARY KEY,
    partitions INTEGER NOT NULL,
    first_id INTEGER NOT NULL,          -- id of its partition 0; the others follow
    retention_s REAL,
    compacted INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS partitions (
    id INTEGER PRIMARY KEY,
    start_offset INTEGER NOT NULL DEFAULT 0,    -- retention has deleted everything before it
    next_offset INTEGER NOT NULL DEFAULT 0,
    last_timestamp INTEGER NOT NULL DEFAULT 0,
    compacted_to INTEGER NOT NULL DEFAULT 0     -- `latest` knows the records before it
);
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY,
    timestamp INTEGER NOT NULL,
    key TEXT NOT NULL,
    value BLOB
);
CREATE TABLE IF NOT EXISTS latest (             -- compacted topics: where the last record of each key is
    partition_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    record_id INTEGER NOT NULL,
    tombstone_since INTEGER,                    -- ms; NULL where the record has a value
    PRIMARY KEY (partition_id, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tombstones ON latest (tombstone_since) WHERE tombstone_since IS NOT NULL;
CREATE TABLE IF NOT EXISTS groups (
    name TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS members (
    group_name TEXT NOT NULL,
    name TEXT NOT NULL,
    session TEXT NOT NULL UNIQUE,               -- one life of the member
    topics TEXT NOT NULL,                       -- sorted JSON list
    lease_until INTEGER NOT NULL,               -- ms
    PRIMARY KEY (group_name, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commits (
    group_name TEXT NOT NULL,
    partition_id INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    PRIMARY KEY (group_name, partition_id)
) WITHOUT ROWID;
"""

_VERSION_2 = "ALTER TABLE records ADD COLUMN headers TEXT;"
VERSIONS = (_VERSION_1, _VERSION_2)
_OFFSET_BITS = 40
_NO_KEY = b""  # an empty key is text


def record_id(partition_id: int, offset: int) -> int:
    """The row number of a record. Leaves room for 2^40 records a partition and 2^23 partitions."""
    return partition_id << _OFFSET_BITS | offset


def offset_of(record: int) -> int:
    """The offset that a row number carries."""
    return record & (1 << _OFFSET_BITS) - 1


def encode_key(key: str | bytes | None) -> str | bytes:
    """A key as it is stored: as text, or as a BLOB if it is not text."""
    return _NO_KEY if key is None else key


def decode_key(stored: str | bytes) -> str | bytes | None:
    return None if stored == _NO_KEY else stored


def encode_headers(headers: Sequence[Header]) -> str | None:
    """Headers as they are stored: a JSON list of names and values. In JSON, bytes are characters (Latin-1)."""
    if not headers:
        return None
    return json.dumps([(name, None if value is None else value.decode("latin-1")) for name, value in headers])


def decode_headers(stored: str | None) -> tuple[Header, ...]:
    if stored is None:
        return ()
    return tuple((name, None if value is None else value.encode("latin-1")) for name, value in json.loads(stored))
