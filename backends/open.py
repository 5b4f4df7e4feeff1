"""Opens the backend that a URL names: one registry for each port, by URL scheme.

An adapter's module, and with it its client library, is imported only when a URL names it. A new backend is a folder
with its adapter and one entry here.
"""

from collections.abc import Callable, Mapping

from backends.log import EventLog
from backends.objects import ObjectStore
from backends.reserve import DiskReserve
from backends.urls import path_of, scheme_of
from backends.vectors import VectorStore


def open_log(url: str, used_partitions: Mapping[str, int] | None = None) -> EventLog:
    """Open the log that a URL names: `sqlite:///relative/log.db`, `sqlite:////absolute/log.db`, `kafka://host:9092`.

    used_partitions: how many partitions of each topic are used, where somebody may add more; those of other topics are
    all used. Raises ConfigurationError.
    """
    return LOGS[scheme_of(url, known=LOGS, setting="FACESTREAM_LOG")](url, used_partitions or {})


def open_reserve(url: str) -> DiskReserve:
    """The room for erasing on the disk of an embedded log; for another log a reserve that does nothing."""
    scheme = scheme_of(url, known=LOGS, setting="FACESTREAM_LOG")
    return DiskReserve(path_of(url, setting="FACESTREAM_LOG").parent if scheme == "sqlite" else None)


def open_objects(url: str) -> ObjectStore:
    """Open the store that a URL names: `file:///relative`, `file:////absolute`, `s3://user@host:9000/bucket`.

    Raises ConfigurationError.
    """
    return OBJECTS[scheme_of(url, known=OBJECTS, setting="FACESTREAM_OBJECTS")](url)


def open_vectors(url: str) -> VectorStore:
    """Open the store that a URL names: `sqlite:///relative/vectors.db`, `cassandra://host:9042/keyspace`.

    Raises ConfigurationError.
    """
    return VECTORS[scheme_of(url, known=VECTORS, setting="FACESTREAM_VECTORS")](url)


def _sqlite_log(url: str, used_partitions: Mapping[str, int]) -> EventLog:
    from backends.sqlite.log import SqliteLog

    return SqliteLog(path_of(url, setting="FACESTREAM_LOG"))


def _kafka_log(url: str, used_partitions: Mapping[str, int]) -> EventLog:
    from backends.kafka.log import KafkaLog

    return KafkaLog(url, used_partitions)


def _file_objects(url: str) -> ObjectStore:
    from backends.files.objects import FileObjects

    return FileObjects(path_of(url, setting="FACESTREAM_OBJECTS"))


def _s3_objects(url: str) -> ObjectStore:
    from backends.s3.objects import S3Objects

    return S3Objects(url)


def _sqlite_vectors(url: str) -> VectorStore:
    from backends.sqlite.vectors import SqliteVectors

    return SqliteVectors(path_of(url, setting="FACESTREAM_VECTORS"))


def _cassandra_vectors(url: str) -> VectorStore:
    from backends.cassandra.vectors import CassandraVectors

    return CassandraVectors(url)


LOGS: dict[str, Callable[[str, Mapping[str, int]], EventLog]] = {"sqlite": _sqlite_log, "kafka": _kafka_log}
OBJECTS: dict[str, Callable[[str], ObjectStore]] = {"file": _file_objects, "s3": _s3_objects}
VECTORS: dict[str, Callable[[str], VectorStore]] = {"sqlite": _sqlite_vectors, "cassandra": _cassandra_vectors}
