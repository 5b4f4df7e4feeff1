"""Opens SQLite files so that a commit is durable, and turns SQLite's errors into the ports'."""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from schemas.errors import ConfigurationError, StorageFull, StoreDamaged, Unavailable

# How long a connection waits for a write lock that another process holds.
BUSY_S = 10.0
# With less free space than this, an I/O error of SQLite is treated as a full disk: SQLite does not pass on the errno.
NO_ROOM_BYTES = 1 << 20

# Errors that mean that our SQL or a bound value is wrong. If they were turned into Unavailable, a worker would retry
# for ever.
_BUGS = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def connect(path: Path, versions: Sequence[str] = ()) -> sqlite3.Connection:
    """Opens a connection in WAL mode that is durable on commit.

    With `versions`, the connection may write; without, it only reads. `versions` are scripts: the first creates the
    tables, each further one changes those of the version before. The file gets those that it does not have yet. Raises
    ConfigurationError for a file of a newer version.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Autocommit: the sqlite3 module itself must not begin transactions.
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, cached_statements=256)
    try:
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA cache_size = -16000")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        if versions:
            _migrate(connection, path, versions)
        else:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def check_version(connection: sqlite3.Connection, path: Path, versions: Sequence[str]) -> int:
    """The version of a file: how many of the scripts it has. A file of facestream 0.1.0 says 0. Raises
    ConfigurationError for a newer version.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(versions):
        raise ConfigurationError(
            f"{path} was written by a newer version of facestream: its tables have version {version}, and this"
            f" facestream knows those up to {len(versions)}: update facestream, or choose another folder with --data"
        )
    return version


def _migrate(connection: sqlite3.Connection, path: Path, versions: Sequence[str]) -> None:
    if check_version(connection, path, versions) == len(versions):
        return
    connection.execute("BEGIN IMMEDIATE")
    version = check_version(connection, path, versions)  # another process may have been first
    for script in versions[version:]:
        for statement in _statements(script):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(versions)}")
    connection.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _use_wal(connection: sqlite3.Connection) -> None:
    # Two processes that create the file at once may conflict here: SQLite does not call its busy handler for this
    # statement.
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def to_port_error(error: Exception, path: Path) -> Exception:
    """The port's error for an error of SQLite. An error that can only be a bug is returned as it is."""
    if isinstance(error, OSError):
        return Unavailable(f"{path}: {error.strerror}: check that the folder exists and may be written")
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.Error) or code is None or code & 0xFF in _BUGS:
        return error
    if code & 0xFF in _DAMAGED or path.is_dir():
        return StoreDamaged(
            f"{path} is damaged, or is no file of facestream ({error}): stop what uses it, and restore a backup"
            " with `facestream restore`; or, without one, move it away to begin with an empty one"
        )
    # After a failed fsync, for whatever reason, it is unknown whether the commit is in the file. So that is never
    # StorageFull.
    full = code & 0xFF == sqlite3.SQLITE_IOERR and code != sqlite3.SQLITE_IOERR_FSYNC and _no_room(path)
    if full or code & 0xFF == sqlite3.SQLITE_FULL:
        return StorageFull(f"no room left for {path}: free some space on its disk, then work continues")
    return Unavailable(f"{path}: {error} ({error.sqlite_errorname})")


def _no_room(path: Path) -> bool:
    with suppress(OSError):
        disk = os.statvfs(path.parent)
        return disk.f_bavail * disk.f_frsize < NO_ROOM_BYTES
    return False
