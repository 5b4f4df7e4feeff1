"""Opening SQLite files so that a commit is durable, and saying in our own errors what went wrong with them."""

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from schemas.errors import StorageFull, Unavailable

# How long a connection waits for the write lock that another process holds.
BUSY_S = 10.0
# Less free space than this, and an I/O error of SQLite is taken for a full disk: SQLite does not hand on the errno.
NO_ROOM_BYTES = 1 << 20

# These say that our SQL or a bound value is wrong. Calling them Unavailable would have the worker retry a bug for ever.
_BUGS = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
}


def connect(path: Path, schema: str | None = None) -> sqlite3.Connection:
    """A connection in WAL mode that is durable on commit; `schema` is run where one is given, otherwise the connection
    only reads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Autocommit: transactions are begun and ended in this file alone.
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, cached_statements=256)
    try:
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA cache_size = -16000")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        if schema is None:
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.executescript(f"BEGIN IMMEDIATE; {schema}; COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    # Two processes that create the file at once meet here, and SQLite does not call its busy handler for this switch.
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def translated(error: Exception, path: Path) -> Exception:
    """SQLite's error as one of ours; an error that can only be a bug comes back as it is."""
    if isinstance(error, OSError):
        return Unavailable(f"{path}: {error.strerror}: check that the folder exists and may be written")
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.Error) or code is None or code & 0xFF in _BUGS:
        return error
    # After a failed fsync the commit may be there or not, whatever the reason was: that one is never StorageFull.
    full = code & 0xFF == sqlite3.SQLITE_IOERR and code != sqlite3.SQLITE_IOERR_FSYNC and _no_room(path)
    if full or code & 0xFF == sqlite3.SQLITE_FULL:
        return StorageFull(f"no room left for {path}: free some space on its disk, work goes on by itself then")
    return Unavailable(f"{path}: {error} ({error.sqlite_errorname})")


def _no_room(path: Path) -> bool:
    with suppress(OSError):
        disk = os.statvfs(path.parent)
        return disk.f_bavail * disk.f_frsize < NO_ROOM_BYTES
    return False
