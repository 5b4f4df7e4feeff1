"""cassandra-driver behind asyncio: connects at the first use in a thread, keeps the prepared statements, and turns the driver's
futures into asyncio's.

What is asked is the caller's: a statement is CQL with {keyspace} in it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import structlog
from cassandra import DriverException
from cassandra import InvalidRequest as RefusedByServer
from cassandra.cluster import Cluster, NoHostAvailable, ResponseFuture, Session
from cassandra.connection import ConnectionException
from cassandra.protocol import ErrorMessage, NumpyProtocolHandler

from backends.urls import ServerUrl
from backends.vectors_cassandra_connect import cluster_of
from schemas.errors import ConfigurationError, FacestreamError, InvalidRequest, Unavailable

T = TypeVar("T")

# Requests on their way at once: with fewer the server waits for the client, with more each only waits longer.
IN_FLIGHT = 128
# After so long without any server the client is made anew: the hosts' names may stand for other addresses by now.
AWAY_S = 30.0
CLOSE_S = 10.0

log = structlog.get_logger(__name__)


class Page(NamedTuple):
    """A part of an answer, and where the next one begins: None after the last."""

    rows: Any
    next: bytes | None


@dataclass
class _Connected:
    cluster: Cluster
    rows: Session
    columns: Session  # answers with numpy arrays
    statements: Mapping[str, Any]
    away_since: float | None = None


class Client:
    """Used from one event loop."""

    def __init__(self, server: ServerUrl, statements: Mapping[str, int], ready: Callable[[Session], None]) -> None:
        """statements: all that will be asked, with the rows of a page. `ready` raises when the keyspace is not."""
        self._server, self._statements, self._ready = server, statements, ready
        self.name = f"cassandra://{','.join(f'{host}:{port}' for host, port in server.hosts)}/{server.path}"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vectors-cassandra")
        self._connecting: asyncio.Task[_Connected] | None = None
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._answers: deque[tuple[asyncio.Future[Page], Page | None, Exception | None]] = deque()
        self._closed = False

    async def run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of the answer. Raises Unavailable, ConfigurationError, InvalidRequest."""
        found: list[tuple[Any, ...]] = []
        async with self._slots:
            page = await self._ask(statement, values)
            found += page.rows or ()
            while page.next is not None:
                page = await self._ask(statement, values, page.next)
                found += page.rows or ()
        return found
