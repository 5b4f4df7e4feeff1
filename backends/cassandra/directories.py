"""The list of directories in Cassandra, which is kept so that listing them does not read all faces.

A directory is listed when faces are put into it. When its last face is deleted, it is removed from the list and its
digest is recorded as emptied. A delayed put may then list it again, although the faces of that put are erased. So while
erasures are kept, a directory that is recorded as emptied is returned only if it has faces.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from backends.cassandra.client import CassandraClient, Statement
from backends.cassandra.schema import BUCKETS, bucket_of
from backends.vectors import ERASURES_KEPT_S

_LIST = Statement(
    "INSERT INTO {keyspace}.directories (generation, bucket, directory) VALUES (?, ?, ?) USING TIMESTAMP ?"
)
_UNLIST = Statement(
    "DELETE FROM {keyspace}.directories USING TIMESTAMP ? WHERE generation = ? AND bucket = ? AND directory = ?"
)
_LISTED = Statement("SELECT directory FROM {keyspace}.directories WHERE generation = ? AND bucket = ?")
_NOTE_EMPTIED = Statement("INSERT INTO {keyspace}.emptied (generation, bucket, digest) VALUES (?, ?, ?) USING TTL ?")
_EMPTIED = Statement("SELECT digest FROM {keyspace}.emptied WHERE generation = ? AND bucket = ?")
_ANY_FACE = Statement(
    "SELECT face_id FROM {keyspace}.faces WHERE directory = ? AND generation = ? AND bucket = ? LIMIT 1"
)
STATEMENTS = (_LIST, _UNLIST, _LISTED, _NOTE_EMPTIED, _EMPTIED, _ANY_FACE)


@asynccontextmanager
async def keep_listed(client: CassandraClient, galleries: Sequence[tuple[str, str]]) -> AsyncIterator[None]:
    """Lists these (directory, generation) while faces are put into them.

    They are listed before the put, so that a process that crashes leaves no faces in a directory that is not listed.
    They are listed again after it, because a delayed delete may have found no faces and removed the directory from the
    list meanwhile.
    """
    await _list(client, galleries)
    yield
    await _list(client, galleries)


async def _list(client: CassandraClient, galleries: Sequence[tuple[str, str]]) -> None:
    now = _now()
    requests = ((_LIST, (generation, bucket_of(directory), directory, now)) for directory, generation in galleries)
    await client.run_all(requests, len(galleries))


async def unlist_if_empty(client: CassandraClient, generation: str, directory: str) -> None:
    # A directory that is listed after this moment stays listed. Faces that were put before it are found, because puts
    # and deletes of a directory are made one after the other, in the order of its partition of the log. A delayed
    # worker only repeats earlier puts.
    now = _now()
    if await _has_faces(client, generation, directory):
        return
    bucket = bucket_of(directory)
    await client.run(_NOTE_EMPTIED, (generation, bucket, _digest(directory), int(ERASURES_KEPT_S)))
    await client.run(_UNLIST, (now, generation, bucket, directory))


async def listed_directories(client: CassandraClient, generation: str) -> list[str]:
    """The listed directories, sorted. Some of them may have no faces."""
    found = await asyncio.gather(*(client.run(_LISTED, (generation, bucket)) for bucket in BUCKETS))
    return sorted(directory for rows in found for (directory,) in rows)


async def directories_with_faces(client: CassandraClient, generation: str) -> list[str]:
    """The directories that have faces, sorted."""
    names = await listed_directories(client, generation)
    found = await asyncio.gather(*(client.run(_EMPTIED, (generation, bucket)) for bucket in BUCKETS))
    emptied = {digest for rows in found for (digest,) in rows}
    if not emptied:
        return names
    doubtful = [name for name in names if _digest(name) in emptied]
    has_faces = await asyncio.gather(*(_has_faces(client, generation, name) for name in doubtful))
    empty = {name for name, there in zip(doubtful, has_faces, strict=True) if not there}
    return [name for name in names if name not in empty]


async def _has_faces(client: CassandraClient, generation: str, directory: str) -> bool:
    found = await asyncio.gather(*(client.run(_ANY_FACE, (directory, generation, bucket)) for bucket in BUCKETS))
    return any(found)


def _now() -> int:
    return time.time_ns() // 1000


def _digest(directory: str) -> bytes:
    return hashlib.sha256(directory.encode()).digest()
