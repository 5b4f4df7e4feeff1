"""For backups: copies of SQLite files that are in use, and what is read from a log that must not be changed."""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from backends.log import Record
from backends.sqlite.connect import BUSY_S, check_version, to_port_error
from backends.sqlite.log_groups import LONGEST_LEASE_MS, read_commits
from backends.sqlite.log_schema import VERSIONS as LOG_VERSIONS
from backends.sqlite.log_schema import decode_key, offset_of, record_id

PAGES_PER_STEP = 1_000  # 4 MB, between two calls of `advance`


@contextmanager
def write_lock(path: Path) -> Iterator[None]:
    """Nobody writes to the file until the block ends. Raises Unavailable."""
    with _opened(path, "rw") as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def snapshot(path: Path, versions: Sequence[str]) -> Iterator[sqlite3.Connection]:
    """A connection that sees the file as it is now until the block ends. While it is open, the WAL grows. Raises
    ConfigurationError for a file of a newer version, StoreDamaged, Unavailable.
    """
    with _opened(path, "rw") as connection:
        connection.execute("BEGIN")
        check_version(connection, path, versions)  # the first read: the snapshot begins here
        yield connection


def size_of(source: sqlite3.Connection) -> int:
    """The bytes that `write_copy` writes."""
    pages, bytes_a_page = (source.execute(f"PRAGMA {it}").fetchone()[0] for it in ("page_count", "page_size"))
    return int(pages * bytes_a_page)


def write_copy(source: sqlite3.Connection, path: Path, advance: Callable[[int], object]) -> None:
    """Writes what a snapshot sees into a new file, without syncing it. `advance` is called with the bytes that were
    written since the last call. Raises StorageFull, Unavailable.
    """
    page_size = source.execute("PRAGMA page_size").fetchone()[0]
    before = 0

    def progress(status: int, remaining: int, total: int) -> None:
        nonlocal before
        advance((total - remaining - before) * page_size)
        before = total - remaining

    with _opened(path, "rwc") as copy:
        copy.execute("PRAGMA synchronous = OFF")
        source.backup(copy, pages=PAGES_PER_STEP, progress=progress)
    make_single_file(path)


def make_single_file(path: Path) -> None:
    """Moves everything into the file itself: it has no WAL then. Nobody else may use the file. Raises StorageFull,
    Unavailable.
    """
    with _opened(path, "rw") as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


def read_records(path: Path, topic: str, *, group: str = "") -> Iterator[Record]:
    """The records of a topic, without those that the group has committed past. The file is only read. Raises
    ConfigurationError for a file of a newer version, StoreDamaged, Unavailable.
    """
    with _opened(path, "ro") as connection:
        connection.execute("BEGIN")
        check_version(connection, path, LOG_VERSIONS)
        commits = read_commits(connection, group)
        for first_id, count in connection.execute(
            "SELECT first_id, partitions FROM topics WHERE name = ?", (topic,)
        ).fetchall():
            for partition in range(count):
                partition_id = first_id + partition
                begin = commits[partition_id].offset if partition_id in commits else 0
                for row, timestamp, key, value in connection.execute(
                    "SELECT id, timestamp, key, value FROM records WHERE id >= ? AND id < ? ORDER BY id",
                    (record_id(partition_id, begin), record_id(partition_id + 1, 0)),
                ):
                    yield Record(topic, partition, offset_of(row), timestamp, decode_key(key), value)


def living_members(path: Path) -> list[str]:
    """The members of all consumer groups of a log whose leases have not ended. The file is only read. Raises
    Unavailable.
    """
    now = int(time.time() * 1000)
    with _opened(path, "ro") as connection:
        query = "SELECT DISTINCT name FROM members WHERE lease_until BETWEEN ? AND ? ORDER BY name"
        return [name for (name,) in connection.execute(query, (now, now + LONGEST_LEASE_MS))]


def leave_out_an_offset(path: Path, topic: str) -> None:
    """Leaves out the next offset of every partition of a topic: no record will have it. Raises Unavailable."""
    with _opened(path, "rw") as connection:
        connection.execute(
            "UPDATE partitions SET next_offset = next_offset + 1 WHERE EXISTS"
            " (SELECT 1 FROM topics WHERE name = ? AND id >= first_id AND id < first_id + partitions)",
            (topic,),
        )


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    try:
        uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise to_port_error(error, path) from error
