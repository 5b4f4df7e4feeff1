"""A keyspace on the real Cassandra for all tests of a session: to create one takes a second."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from backends.cassandra import schema as schema
from backends.cassandra.connect import OPTIONS, PORT, cluster_of
from backends.urls import ServerUrl, server_of
from bench.stores import drop_keyspace


def server_at(url: str) -> ServerUrl:
    return server_of(url, setting="FACESTREAM_VECTORS", default_port=PORT, options=OPTIONS)


@contextmanager
def temporary_keyspace(services: dict[str, str]) -> Iterator[str]:
    """The URL of a new keyspace with its tables, as `facestream init` makes them; it is dropped at the end."""
    name = f"test_{uuid.uuid4().hex}"
    url = f"{services['FACESTREAM_VECTORS'].rpartition('/')[0]}/{name}"
    with cluster_of(server_at(url)) as cluster:
        schema.create(cluster.connect(), name, replication=1)
    yield url
    drop_keyspace(url, name)
