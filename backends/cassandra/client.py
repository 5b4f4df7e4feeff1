"""cassandra-driver behind asyncio: connects in a thread at the first use, prepares the statements, and turns the
driver's futures into those of asyncio.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from cassandra import DriverException, Unauthorized, UnresolvableContactPoints
from cassandra import InvalidRequest as Refused
from cassandra.cluster import Cluster, NoHostAvailable, ResponseFuture, Session
from cassandra.connection import ConnectionException
from cassandra.protocol import ErrorMessage, NumpyProtocolHandler, ProtocolHandler

from backends.cassandra.connect import cluster_of
from backends.cassandra.private_parts import call_in_driver_thread, free_references, paging_state_of
from backends.cassandra.series import RequestSeries
from backends.urls import ServerUrl
from schemas.errors import ConfigurationError, FacestreamError, InvalidRequest, Unavailable

T = TypeVar("T")

# Requests in flight at once. With fewer, the server waits for the client; with more, requests wait for each other. The
# limit applies to all single requests together, and separately to each series.
IN_FLIGHT = 128
SERIES_AT_ONCE = 2
# Up to this many requests are sent as single ones.
SINGLE_REQUESTS = 8
# After this time without any server the client connects anew, because the hosts' names may have new addresses.
AWAY_S = 30.0
CLOSE_S = 10.0

# What the driver raises. ErrorMessage is an answer of the server for which it has no other exception.
FAILURES = (DriverException, NoHostAvailable, ConnectionException, ErrorMessage, OSError)


class Statement(NamedTuple):
    """CQL with {keyspace} in it. All statements are idempotent, so that the driver may repeat them."""

    cql: str
    page_rows: int = 5_000


class Page(NamedTuple):
    """A page of the rows, and the paging state of the next: None after the last."""

    rows: Any
    next: bytes | None


class Columns(NamedTuple):
    """A page with an array for each column."""

    columns: dict[str, Any]
    next: bytes | None


@dataclass
class _Connection:
    cluster: Cluster
    session: Session
    prepared: dict[Statement, Any]
    unreachable_since: float | None = None


class CassandraClient:
    """Sends prepared statements. It belongs to one event loop.

    Every call raises Unavailable, or ConfigurationError when `ready` does.
    """

    def __init__(self, server: ServerUrl, statements: Sequence[Statement], ready: Callable[[Session], None]) -> None:
        """`statements`: all that will be used. `ready` raises if the keyspace does not have the tables they need."""
        self._server, self._statements, self._ready = server, statements, ready
        self._where = f"cassandra://{','.join(f'{host}:{port}' for host, port in server.hosts)}/{server.path}"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vectors-cassandra")
        self._connected: _Connection | None = None
        self._attempt: asyncio.Future[_Connection] | None = None
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._series_slots = asyncio.Semaphore(SERIES_AT_ONCE)
        self._waiting: set[asyncio.Future[Any]] = set()
        self._answers: deque[tuple[asyncio.Future[Page], Page | Exception]] = deque()
        self._woken = False
        self._closed = False

    def __repr__(self) -> str:
        return self._where

    async def run(self, statement: Statement, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of the answer."""
        found: list[tuple[Any, ...]] = []
        page = Page(None, None)
        async with self._slots:
            while True:
                page = await self._ask(statement, values, page.next)
                found += page.rows or ()
                if page.next is None:
                    return found

    async def page(self, statement: Statement, values: Sequence[Any], begin: bytes | None) -> Page:
        """One page of the answer."""
        async with self._slots:
            return await self._ask(statement, values, begin)

    async def run_all(self, requests: Iterable[tuple[Statement, Sequence[Any]]], count: int) -> None:
        """Runs `count` requests concurrently until one fails; for statements whose answers have no rows."""
        self._check_open()
        if count <= SINGLE_REQUESTS:
            await asyncio.gather(*(self.run(*request) for request in requests))
            return
        async with self._series_slots:
            self._check_open()
            connected = self._connected or await self._connect()
            prepared, execute = connected.prepared, connected.session.execute_async
            series = RequestSeries(requests, lambda statement, values: execute(prepared[statement], values))
            call_in_driver_thread(connected.cluster, partial(series.begin, IN_FLIGHT))
            try:
                await self._await_answer(connected, series.done)
            finally:
                series.stop()

    async def columns(self, statement: Statement, values: Sequence[Any], begin: bytes | None) -> Columns:
        """One page of the answer."""
        columns, following = await self._ask(statement, values, begin, columns=True)
        # With a column of numbers the driver's parser fails silently under numpy 2.
        if not isinstance(columns, dict):
            raise TypeError(f"cassandra-driver gave no columns for {statement.cql}")
        return Columns(columns, following)

    async def run_on_new_connection(self, work: Callable[[Session], None]) -> None:
        """Runs `work` in a thread, on a separate connection, without checking that the keyspace is ready."""

        def run_connected() -> None:
            cluster = cluster_of(self._server)
            try:
                work(cluster.connect())
            finally:
                cluster.shutdown()

        self._check_open()
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, run_connected)
        except FAILURES as error:
            raise self._to_port_error(error) from error

    async def close(self) -> None:
        """Closes within about CLOSE_S. Requests in flight fail."""
        self._closed = True
        for waiting in self._waiting:  # the driver would not end them before their timeout
            if not waiting.done():
                waiting.set_exception(Unavailable(f"{self} is closed"))
        if self._attempt is not None:
            await asyncio.wait([self._attempt], timeout=CLOSE_S)
        if self._connected is not None:
            shut_down = asyncio.get_running_loop().run_in_executor(self._thread, self._connected.cluster.shutdown)
            self._connected = None
            await asyncio.wait([shut_down], timeout=CLOSE_S)
        self._thread.shutdown(wait=False)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"{self} is closed")

    async def _ask(
        self, statement: Statement, values: Sequence[Any], begin: bytes | None, *, columns: bool = False
    ) -> Page:
        self._check_open()
        connected = self._connected or await self._connect()
        session = connected.session
        # The handler of the next request. A second session for columns is no solution: when only one of two sessions
        # loses its connection, the driver does not reconnect it.
        session.client_protocol_handler = NumpyProtocolHandler if columns else ProtocolHandler
        request = session.execute_async(connected.prepared[statement], values, paging_state=begin)
        answer: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        request.add_callbacks(
            self._on_success, self._on_failure, callback_args=(request, answer), errback_args=(request, answer)
        )
        return await self._await_answer(connected, answer)

    async def _await_answer(self, connected: _Connection, waiting: asyncio.Future[T]) -> T:
        self._waiting.add(waiting)
        try:
            outcome = await waiting
        except Refused as error:
            await self.run_on_new_connection(self._ready)  # raises if the keyspace no longer exists
            raise InvalidRequest(f"{self}: {error}") from error
        except FAILURES as error:
            if isinstance(error, NoHostAvailable):
                self._note_unreachable(connected)
            raise self._to_port_error(error) from error
        finally:
            self._waiting.discard(waiting)
        connected.unreachable_since = None
        return outcome

    # In the driver's threads.

    def _on_success(self, rows: Any, request: ResponseFuture, answer: asyncio.Future[Page]) -> None:
        self._deliver(request, answer, Page(rows, paging_state_of(request, rows)))

    def _on_failure(self, error: Exception, request: ResponseFuture, answer: asyncio.Future[Page]) -> None:
        self._deliver(request, answer, error)

    def _deliver(self, request: ResponseFuture, answer: asyncio.Future[Page], outcome: Page | Exception) -> None:
        free_references(request)
        self._answers.append((answer, outcome))
        if not self._woken:  # once for all answers that arrive meanwhile: waking the event loop costs more than they do
            self._woken = True
            with suppress(RuntimeError):  # the event loop is closed, and nobody is waiting
                answer.get_loop().call_soon_threadsafe(self._settle)

    # In the event loop again.

    def _settle(self) -> None:
        self._woken = False
        while self._answers:
            answer, outcome = self._answers.popleft()
            if answer.done():  # cancelled, or answered by two servers
                continue
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

    async def _connect(self) -> _Connection:
        """Connects. Concurrent callers share one attempt; after it has failed, the next caller makes another."""
        if self._attempt is None:
            self._attempt = asyncio.get_running_loop().run_in_executor(self._thread, self._connect_now)
            self._attempt.add_done_callback(self._on_attempt_done)
        return await asyncio.shield(self._attempt)

    def _on_attempt_done(self, attempt: asyncio.Future[_Connection]) -> None:
        self._attempt = None
        if not attempt.cancelled() and attempt.exception() is None:
            self._connected = attempt.result()

    def _connect_now(self) -> _Connection:
        try:
            cluster = cluster_of(self._server)
            try:
                session = cluster.connect()
                self._ready(session)
                prepared = {it: _prepare(session, it, self._server.path) for it in self._statements}
            except BaseException:
                cluster.shutdown()
                raise
        except FAILURES as error:
            raise self._to_port_error(error) from error
        return _Connection(cluster, session, prepared)

    def _note_unreachable(self, connected: _Connection) -> None:
        now = time.monotonic()
        connected.unreachable_since = connected.unreachable_since or now
        if now - connected.unreachable_since > AWAY_S and self._connected is connected:
            self._connected = None
            self._thread.submit(connected.cluster.shutdown)

    def _to_port_error(self, error: Exception) -> FacestreamError:
        if isinstance(error, Unauthorized):
            return ConfigurationError(f"{self}: {error}")
        return Unavailable(f"{self}: {_describe(error, self._server)}")


def _describe(error: Exception, server: ServerUrl) -> str:
    if isinstance(error, UnresolvableContactPoints):
        return "no address is known for any of these hosts"
    if not isinstance(error, NoHostAvailable):
        return str(error) or type(error).__name__
    if isinstance(error.errors, dict) and error.errors:
        return "; ".join(f"{host}: {reason}" for host, reason in error.errors.items())
    datacenter = server.options.get("datacenter")
    return "no server can be reached" + (f", or none is in the datacenter '{datacenter}'" if datacenter else "")


def _prepare(session: Session, statement: Statement, keyspace: str) -> Any:
    prepared = session.prepare(statement.cql.format(keyspace=f'"{keyspace}"'))
    prepared.is_idempotent = True
    prepared.fetch_size = statement.page_rows
    return prepared
