"""SQLite behind asyncio: one thread that writes, with many operations in a transaction, and threads that read.

A commit costs an fsync, whether it holds one record or a thousand. So all operations that were queued during the last
commit go into the next transaction together. An operation is a plain function that takes a connection.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from backends.sqlite.connect import BUSY_S, connect, to_port_error
from schemas.errors import FacestreamError, StorageFull, Unavailable

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

# A larger group would only delay its first operation: with 500 operations, the fsync is already under 1 % of the time
# of each.
LARGEST_GROUP = 500
# How long emptying the WAL waits for readers: other writes wait meanwhile, and a backup reads for minutes.
EMPTY_WAL_MS = 500
EMPTY_WAL_AGAIN_S = 10.0  # after others were still reading


class QueuedOperation(NamedTuple):
    operation: Operation[Any]
    future: asyncio.Future[Any] | None


class _OperationResult(NamedTuple):
    future: asyncio.Future[Any] | None
    result: Any
    error: Exception | None


class GroupWriter:
    """Runs operations in a separate thread. All that are queued share one transaction.

    An operation that has written nothing may raise a FacestreamError, which only its caller gets. Any other error rolls
    the group back, and each operation is tried alone. It belongs to one event loop. Subclasses override the hooks.
    `versions`: see connect.
    """

    def __init__(self, path: Path, versions: Sequence[str], *, name: str) -> None:
        self._path = path
        self._versions = versions
        self._name = name
        self._queue: SimpleQueue[QueuedOperation | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._empty_wal, self._empty_wal_from = False, 0.0

    async def run(self, operation: Operation[T]) -> T:
        """Runs the operation in a transaction, durable on return.

        Raises StorageFull, Unavailable, or what the operation raises.
        """
        if self._closed:
            raise Unavailable(f"{self._path} is closed")
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(QueuedOperation(operation, future))
        return await future

    async def empty_wal(self) -> None:
        """Copies the WAL into the file and truncates it, so that deleted data is in neither. Readers that are active
        may prevent a part of that.
        """

        def after_the_group(connection: sqlite3.Connection) -> None:
            self._empty_wal = True

        await self.run(after_the_group)

    @property
    def closed(self) -> bool:
        return self._closed

    async def close(self) -> None:
        """Finishes the queued operations and ends the thread."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
            self._thread = None

    # Hooks for subclasses. All run in the writer's thread.

    def _on_begin(self, connection: sqlite3.Connection) -> None:
        """Called inside the transaction, before its first operation."""

    def _before_commit(self, connection: sqlite3.Connection) -> None:
        """Called inside the transaction, after its last operation."""

    def _on_commit(self) -> Callable[[], None] | None:
        """Called after the commit. Returns a function that the event loop has to call before the callers continue."""
        return None

    def _on_rollback(self) -> None:
        """Called after a rollback. Forgets what was kept in memory about this transaction."""

    def _due(self) -> float | None:
        """The seconds until `_tick` has to run; None for never."""
        return None

    def _tick(self) -> None:
        """Called regularly, between two groups."""

    # The thread.

    def _work(self) -> None:
        stopping = False
        while not stopping:
            group, stopping = self._next_group()
            if group:
                self._execute(group)
            if (due := self._due()) is not None and due <= 0:
                self._tick()
        self._disconnect()

    def _next_group(self) -> tuple[list[QueuedOperation], bool]:
        """The queued operations, or none when a tick is due, and whether the writer was closed."""
        group: list[QueuedOperation] = []
        due = self._due()
        with suppress(Empty):
            item = self._queue.get(timeout=None if due is None else max(due, 0.0))
            while item is not None:
                group.append(item)
                if len(group) == LARGEST_GROUP:
                    return group, False
                item = self._queue.get_nowait()
            return group, True
        return group, False

    def _execute(self, group: list[QueuedOperation]) -> None:
        committing = False
        results: list[_OperationResult] = []
        try:
            connection = self._begin()
        except Exception as error:
            self._roll_back(error)
            self._deliver(
                None, [_OperationResult(pending.future, None, to_port_error(error, self._path)) for pending in group]
            )
            return
        try:
            self._on_begin(connection)
            for operation, future in group:
                try:
                    results.append(_OperationResult(future, operation(connection), None))
                except FacestreamError as refusal:
                    results.append(_OperationResult(future, None, refusal))
            self._before_commit(connection)
            committing = True
            connection.execute("COMMIT")
        except Exception as error:
            self._roll_back(error)
            reason = to_port_error(error, self._path)
            if len(group) > 1 and (not committing or isinstance(reason, StorageFull)):
                # Nothing was written. One operation that is too large, or wrong, must not fail the others.
                for pending in group:
                    self._execute([pending])
            else:
                self._deliver(None, [_OperationResult(pending.future, None, reason) for pending in group])
            return
        notify = self._on_commit()
        if self._empty_wal and time.monotonic() >= self._empty_wal_from:
            left = True
            with suppress(sqlite3.Error):
                connection.execute(f"PRAGMA busy_timeout = {EMPTY_WAL_MS}")
                left = bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
            self._empty_wal = left  # while somebody reads from it
            self._empty_wal_from = time.monotonic() + EMPTY_WAL_AGAIN_S if left else 0.0
            connection.execute(f"PRAGMA busy_timeout = {BUSY_S * 1000:.0f}")
        self._deliver(notify, results)

    def _begin(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._path, self._versions)
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def _roll_back(self, error: Exception) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_FULL) & 0xFF
            if code not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
                self._disconnect()
        self._on_rollback()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _deliver(self, notify: Callable[[], None] | None, results: list[_OperationResult]) -> None:
        # Once for the whole group: waking the event loop costs more than the records themselves.
        assert self._loop is not None
        with suppress(RuntimeError):  # the event loop is closed, and nobody is waiting
            self._loop.call_soon_threadsafe(_settle, notify, results)


def _settle(notify: Callable[[], None] | None, results: list[_OperationResult]) -> None:
    if notify is not None:
        notify()
    for future, result, error in results:
        if future is None or future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


class ReadThread:
    """Runs reads one after the other in its own thread, each on one snapshot. The file and its tables must exist."""

    def __init__(self, path: Path, *, name: str) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def run(self, read: Operation[T]) -> T:
        """Runs a read and returns its result. Raises Unavailable, or what the read raises."""
        if self._closed:
            raise Unavailable(f"{self._path} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._read, read)

    async def close(self) -> None:
        """Finishes the current reads and ends the thread."""
        if not self._closed:
            self._closed = True
            self._executor.submit(self._disconnect)
            await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)

    def _read(self, read: Operation[T]) -> T:
        try:
            if self._connection is None:
                self._connection = connect(self._path)
            self._connection.execute("BEGIN")
            try:
                return read(self._connection)
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            reason = to_port_error(error, self._path)
            raise (Unavailable(reason.message) if isinstance(reason, StorageFull) else reason) from error

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
