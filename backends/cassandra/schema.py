"""The keyspace and its tables, which one process at a time creates and migrates.

When two servers create the same table at once, they create two tables and then disagree. So a row in `schema_versions`
is a lock, which is taken by a conditional update. Only that table itself may be created by several processes at once:
it has a fixed id, so that the servers agree.
"""

import time
import uuid
import zlib
from contextlib import suppress

from cassandra import ConsistencyLevel, InvalidRequest, OperationTimedOut, RequestExecutionException
from cassandra.cluster import ResultSet, Session
from cassandra.protocol import ErrorMessage
from cassandra.query import SimpleStatement

from schemas.errors import ConfigurationError, Unavailable

BUCKETS = range(16)
# A process that crashes while it creates the tables keeps the lock for this long.
LOCK_S = 60
PATIENCE_S = 150.0
LOOK_EVERY_S = 0.2
# A busy server needs some seconds to create a table.
CREATE_TIMEOUT_S = 30.0
# Errors while a change has not reached all servers, or while several processes try to take the lock. With three
# servers, for example, a table "does not exist" right after it was created through another one.
TRANSIENT_ERRORS = (InvalidRequest, OperationTimedOut, RequestExecutionException, ErrorMessage)

_KEYSPACE = """
CREATE KEYSPACE IF NOT EXISTS {keyspace}
WITH replication = {{'class': 'NetworkTopologyStrategy', 'replication_factor': {replication}}} AND durable_writes = true
"""

_VERSIONS = """
CREATE TABLE IF NOT EXISTS {keyspace}.schema_versions (name text PRIMARY KEY, version int, holder uuid) WITH id = {id}
"""

# The statements that each version adds to the one before. It is safe to run any of them twice.
#
# All tables have the default gc_grace_seconds, ten days. During that time a delete hides what is written later with an
# earlier timestamp. A server that missed a delete must be repaired within that time, or it brings deleted rows back.
#
# faces: a gallery has 16 partitions, sorted by person, under 100 MB each for two million faces of 128 numbers. It is
# read as a whole, so leveled compaction keeps it in few files. directories: by generation, in 16 partitions, because
# every learn writes to it. answers: they expire by their TTL. The answers of each day are in separate files, which are
# deleted as a whole.
_VERSION_1 = (
    """
    CREATE TABLE IF NOT EXISTS {keyspace}.faces (
        directory text, generation text, bucket tinyint, person text, face_id text,
        image_id text, source text, timestamp bigint, vector blob,
        PRIMARY KEY ((directory, generation, bucket), person, face_id)
    ) WITH compaction = {{'class': 'LeveledCompactionStrategy'}}
    """,
    """
    CREATE TABLE IF NOT EXISTS {keyspace}.directories (
        generation text, bucket tinyint, directory text,
        PRIMARY KEY ((generation, bucket), directory)
    ) WITH compaction = {{'class': 'LeveledCompactionStrategy'}}
    """,
    """
    CREATE TABLE IF NOT EXISTS {keyspace}.answers (
        image_id text PRIMARY KEY, value text, expires_at double
    ) WITH compaction = {{
        'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS', 'compaction_window_size': 1
    }}
    """,
    """
    CREATE TABLE IF NOT EXISTS {keyspace}.api_keys (
        part text, key_id text, secret_hash text, scope text, directory text, created_at double,
        PRIMARY KEY ((part), key_id)
    )
    """,
)
# emptied: digests of directories whose last face was deleted. Digests, because the names themselves may have been
# erased. Such a directory may be listed without having faces, so this has to be looked up.
_VERSION_2 = (
    """
    CREATE TABLE IF NOT EXISTS {keyspace}.emptied (
        generation text, bucket tinyint, digest blob,
        PRIMARY KEY ((generation, bucket), digest)
    )
    """,
)
VERSIONS = (_VERSION_1, _VERSION_2)


def bucket_of(name: str) -> int:
    """The bucket of a person or a directory. It must never change."""
    return zlib.crc32(name.encode()) % len(BUCKETS)


def create(session: Session, keyspace: str, replication: int) -> None:
    """Creates the keyspace and its tables, or migrates them. Blocks.

    Raises Unavailable if the servers do not agree on the schema, or if another process does not finish.
    """
    holder = uuid.uuid4()
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            if _try_create(session, keyspace, replication, holder):
                return
            reason = "another process has begun to create it, and does not finish"
        except TRANSIENT_ERRORS as error:
            reason = str(error)
        if time.monotonic() > until:
            raise Unavailable(f"the keyspace '{keyspace}' cannot be created: {reason}")
        time.sleep(LOOK_EVERY_S)


def require(session: Session, keyspace: str) -> None:
    """Checks the version of the tables. Blocks. Raises ConfigurationError for a keyspace that is missing or too old."""
    try:
        version = _version(session, keyspace, ConsistencyLevel.LOCAL_QUORUM)
    except InvalidRequest:
        version = 0
    if version < len(VERSIONS):
        state = "has an older version of its tables" if version else "does not exist or has no tables"
        raise ConfigurationError(f"the keyspace '{keyspace}' {state}: run `facestream init` first")


def _try_create(session: Session, keyspace: str, replication: int, holder: uuid.UUID) -> bool:
    """Tries once. Returns False while another process holds the lock, or has taken it meanwhile."""
    _change(session, _KEYSPACE, keyspace, replication=replication)
    _change(session, _VERSIONS, keyspace, id=uuid.uuid5(uuid.NAMESPACE_URL, f"cassandra:{keyspace}/schema_versions"))
    version = _version(session, keyspace, ConsistencyLevel.SERIAL)
    if version >= len(VERSIONS):
        return True
    if _update(session, keyspace, f"USING TTL {LOCK_S} SET holder = %s IF holder = null", holder) not in (None, holder):
        return False
    try:
        _migrate(session, keyspace, version, holder)
    finally:
        with suppress(*TRANSIENT_ERRORS):  # then the lock expires
            _update(session, keyspace, "SET holder = null IF holder = %s", holder)
    return _version(session, keyspace, ConsistencyLevel.SERIAL) >= len(VERSIONS)


def _migrate(session: Session, keyspace: str, version: int, holder: uuid.UUID) -> None:
    for number, statements in enumerate(VERSIONS[version:], version + 1):
        for cql in statements:
            _change(session, cql, keyspace)
        _update(session, keyspace, "SET version = %s IF holder = %s", number, holder)


def _change(session: Session, cql: str, keyspace: str, **values: object) -> None:
    """Changes the schema and waits until all servers have the change."""
    answer: ResultSet = session.execute(cql.format(keyspace=f'"{keyspace}"', **values), timeout=CREATE_TIMEOUT_S)
    if not answer.response_future.is_schema_agreed:
        raise OperationTimedOut("the servers do not agree on its tables")


def _version(session: Session, keyspace: str, consistency: int) -> int:
    query = SimpleStatement(
        f"SELECT version FROM \"{keyspace}\".schema_versions WHERE name = 'facestream'",  # noqa: S608  # the name was checked
        consistency_level=consistency,
        is_idempotent=True,
    )
    row = session.execute(query).one()
    return row[0] or 0 if row else 0


def _update(session: Session, keyspace: str, change: str, *values: object) -> uuid.UUID | None:
    """Changes the row if the condition in `change` holds. Otherwise returns the holder of the lock."""
    assignment, condition = change.split(" IF ")
    using, _, assignment = assignment.rpartition("SET ")
    cql = f"UPDATE \"{keyspace}\".schema_versions {using} SET {assignment} WHERE name = 'facestream' IF {condition}"  # noqa: S608
    applied, *other = session.execute(cql, values).one()
    return None if applied else other[0]
