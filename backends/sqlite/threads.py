"""SQLite behind asyncio: one thread that writes in groups, and threads that read.

A commit costs an fsync, whether it holds one record or a thousand: so everything that queued up while the last one ran
goes into the next transaction together. What is written and read is the caller's: an operation is a plain function that
takes a connection.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from backends.sqlite.connect import connect, translated
from schemas.errors import FacestreamError, StorageFull, Unavailable

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

# More would only delay the first of a group: at 500 operations the fsync is already under 1 % of each one's share.
LARGEST_GROUP = 500


class Waiting(NamedTuple):
    operation: Operation[Any]
    future: asyncio.Future[Any] | None


class _Outcome(NamedTuple):
    future: asyncio.Future[Any] | None
    result: Any
    error: Exception | None


class GroupWriter:
    """Runs operations in transactions of its own thread, as many together as are waiting.

    An operation may refuse with a FacestreamError as long as it has written nothing yet: only its caller hears of it
    then. Any other error rolls the group back, and each operation is tried alone. Used from one event loop. Subclasses
    hook into the transaction.
    """

    def __init__(self, path: Path, schema: str, *, name: str) -> None:
        self._path = path
        self._schema = schema
        self._name = name
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._empty_wal = False

    async def run(self, operation: Operation[T]) -> T:
        """Runs it in a transaction; durable on return. Raises StorageFull, Unavailable, or what the operation refuses
        with.
        """
        if self._closed:
            raise Unavailable(f"{self._path} is closed")
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(Waiting(operation, future))
        return await future

    async def empty_wal(self) -> None:
        """Copies the WAL into the file and cuts it off, so that what was deleted is in neither. Does what it can while
        others are reading.
        """

        def after_the_group(connection: sqlite3.Connection) -> None:
            self._empty_wal = True

        await self.run(after_the_group)

    @property
    def closed(self) -> bool:
        return self._closed

    async def close(self) -> None:
        """Finishes what was handed over before and ends the thread."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
            self._thread = None

    # What a subclass may add. All run in the writer's thread.

    def _begun(self, connection: sqlite3.Connection) -> None:
        """Inside the transaction, before its first operation."""

    def _before_commit(self, connection: sqlite3.Connection) -> None:
        """Inside the transaction, after its last operation."""

    def _committed(self) -> Callable[[], None] | None:
        """After the commit: what the event loop shall do before the callers go on."""
        return None

    def _rolled_back(self) -> None:
        """What was kept in memory about this transaction is void."""

    def _due(self) -> float | None:
        """Seconds until `_tick` shall run; None for never."""
        return None

    def _tick(self) -> None:
        """Something regular, between two groups."""

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

    def _next_group(self) -> tuple[list[Waiting], bool]:
        """What waits, or nothing when a tick is due, and whether it was the last."""
        group: list[Waiting] = []
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

    def _execute(self, group: list[Waiting]) -> None:
        committing = False
        outcomes: list[_Outcome] = []
        try:
            connection = self._begin()
        except Exception as error:
            self._roll_back(error)
            self._tell(None, [_Outcome(pending.future, None, translated(error, self._path)) for pending in group])
            return
        try:
            self._begun(connection)
            for operation, future in group:
                try:
                    outcomes.append(_Outcome(future, operation(connection), None))
                except FacestreamError as refusal:
                    outcomes.append(_Outcome(future, None, refusal))
            self._before_commit(connection)
            committing = True
            connection.execute("COMMIT")
        except Exception as error:
            self._roll_back(error)
            reason = translated(error, self._path)
            if len(group) > 1 and (not committing or isinstance(reason, StorageFull)):
                # Nothing of it was written. What was too large, or wrong, shall not take its neighbours down.
                for pending in group:
                    self._execute([pending])
            else:
                self._tell(None, [_Outcome(pending.future, None, reason) for pending in group])
            return
        news = self._committed()
        if self._empty_wal:
            self._empty_wal = False
            with suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._tell(news, outcomes)

    def _begin(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._path, self._schema)
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
        self._rolled_back()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _tell(self, news: Callable[[], None] | None, outcomes: list[_Outcome]) -> None:
        # Once for the whole group: waking the event loop costs more than the records themselves.
        assert self._loop is not None
        with suppress(RuntimeError):  # the event loop is closed, nobody waits any more
            self._loop.call_soon_threadsafe(_settle, news, outcomes)


def _settle(news: Callable[[], None] | None, outcomes: list[_Outcome]) -> None:
    if news is not None:
        news()
    for future, result, error in outcomes:
        if future is None or future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


class ReadThread:
    """Runs reads one after the other in a thread of its own, each on one snapshot. The file and its tables must exist
    already.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def run(self, read: Operation[T]) -> T:
        """Raises Unavailable, or what the read raises."""
        if self._closed:
            raise Unavailable(f"{self._path} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._read, read)

    async def close(self) -> None:
        """Finishes the reads under way."""
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
            reason = translated(error, self._path)
            raise (Unavailable(reason.message) if isinstance(reason, StorageFull) else reason) from error

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
