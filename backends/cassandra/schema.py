"""The keyspace and its tables: where a row lies, and how they are created, and brought up to date, by one process at a
time.

Two servers that create the same table at once make two of it, and then disagree: so a row in `schema_versions`, taken
with a condition, is a lock. Its own table is the only one that several may create at once: a fixed id makes them agree.
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
# A process that dies as it creates the tables keeps the lock for so long.
LOCK_S = 60
PATIENCE_S = 150.0
LOOK_EVERY_S = 0.2
# A table takes a server that is busy some seconds.
CREATE_TIMEOUT_S = 30.0
# What servers say as long as a change has not come to all of them, or when several processes try for the lock. It was
# seen with three servers: a table "does not exist" right after it was created through another server.
PASSING = (InvalidRequest, OperationTimedOut, RequestExecutionException, ErrorMessage)

_KEYSPACE = """
CREATE KEYSPACE IF NOT EXISTS {keyspace}
WITH replication = {{'class': 'NetworkTopologyStrategy', 'replication_factor': {replication}}} AND durable_writes = true
"""

_VERSIONS = """
CREATE TABLE IF NOT EXISTS {keyspace}.schema_versions (name text PRIMARY KEY, version int, holder uuid) WITH id = {id}
"""

# What each version adds to the one before. Every statement may be run twice.
#
# All have gc_grace_seconds as it is by default, ten days. For so long a delete holds against what is written later with
# an earlier timestamp; and a server that missed it must be repaired within that time, or it brings back what was
# deleted.
#
# faces: a gallery lies in 16 partitions, under 100 MB each for two million faces of 128 numbers, sorted by person. It
# is read as a whole, so leveled compaction keeps it in few files. directories: which there are, by generation; in 16
# partitions, since every learn writes to it. answers: go by their TTL, a day's at once where they lie together.
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
# emptied: directories that have lost their last face, as digests, since their names may be what was erased. What is put
# into one of them is not there if it was erased, so whether it has faces again must be looked up.
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
    """Where a person or a directory lies, for ever."""
    return zlib.crc32(name.encode()) % len(BUCKETS)


def create(session: Session, keyspace: str, replication: int) -> None:
    """Blocks. Raises Unavailable when the servers do not get to agree, or another process does not get done."""
    holder = uuid.uuid4()
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            if _created(session, keyspace, replication, holder):
                return
            reason = "another process has begun with it, and does not get done"
        except PASSING as error:
            reason = str(error)
        if time.monotonic() > until:
            raise Unavailable(f"the keyspace '{keyspace}' cannot be created: {reason}")
        time.sleep(LOOK_EVERY_S)


def require(session: Session, keyspace: str) -> None:
    """Blocks. Raises ConfigurationError for a keyspace that is not there, or older than this program."""
    try:
        version = _version(session, keyspace, ConsistencyLevel.LOCAL_QUORUM)
    except InvalidRequest:
        version = 0
    if version < len(VERSIONS):
        state = "has an older version of its tables" if version else "does not exist or has no tables"
        raise ConfigurationError(f"the keyspace '{keyspace}' {state}: run `facestream init` first")


def _created(session: Session, keyspace: str, replication: int, holder: uuid.UUID) -> bool:
    """False while somebody else holds the lock, or has taken it meanwhile."""
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
        with suppress(*PASSING):  # then it goes by itself
            _update(session, keyspace, "SET holder = null IF holder = %s", holder)
    return _version(session, keyspace, ConsistencyLevel.SERIAL) >= len(VERSIONS)


def _migrate(session: Session, keyspace: str, version: int, holder: uuid.UUID) -> None:
    for number, statements in enumerate(VERSIONS[version:], version + 1):
        for cql in statements:
            _change(session, cql, keyspace)
        _update(session, keyspace, "SET version = %s IF holder = %s", number, holder)


def _change(session: Session, cql: str, keyspace: str, **values: object) -> None:
    """Changes the schema, and waits until all servers have it."""
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
    """Changes the row if the condition in `change` holds. Returns who holds the lock instead where it does not."""
    assignment, condition = change.split(" IF ")
    using, _, assignment = assignment.rpartition("SET ")
    cql = f"UPDATE \"{keyspace}\".schema_versions {using} SET {assignment} WHERE name = 'facestream' IF {condition}"  # noqa: S608
    applied, *other = session.execute(cql, values).one()
    return None if applied else other[0]
