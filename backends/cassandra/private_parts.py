"""Everything that is used of cassandra-driver beyond its documented interface.

Its private members are reached only through the functions of this file. Besides them, this folder uses ErrorMessage of
cassandra.protocol (client.py, schema.py) and ConnectionException of cassandra.connection (client.py), which have public
names but no documentation.

A release of cassandra-driver may change them: pyproject.toml bounds its version, and
tests/unit/backends/test_private_parts.py says what has changed.
"""

from collections.abc import Callable
from typing import Any

from cassandra.cluster import Cluster, ResponseFuture, ResultSet


def call_in_driver_thread(cluster: Cluster, work: Callable[[], None]) -> None:
    """Has the thread of the driver's event loop call `work` soon."""
    cluster.connection_class.create_timer(0, work)


def paging_state_of(request: ResponseFuture, rows: Any) -> bytes | None:
    """The paging state after these rows, which the request was answered with; None after the last page."""
    state: bytes | None = ResultSet(request, rows).paging_state
    return state


def free_references(request: ResponseFuture) -> None:
    """Breaks the reference cycles of a request that was answered.

    A request, its callbacks and its timer refer to each other, so the driver leaves them, and the rows, to the garbage
    collector. With thousands of requests, collecting them takes a third of the time.
    """
    request.clear_callbacks()
    request._timer = None
