"""Deletes from Cassandra.

Like a face, a delete is written with a timestamp. It hides everything with the same or an earlier timestamp, even if
that is written later. The servers forget the delete after gc_grace_seconds, ten days.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

from backends.cassandra.client import IN_FLIGHT, CassandraClient, Statement
from backends.cassandra.schema import BUCKETS, bucket_of

_FACES = "DELETE FROM {keyspace}.faces USING TIMESTAMP ? WHERE directory = ? AND generation = ? AND bucket = ?"
_DELETE_BUCKET = Statement(_FACES)
_DELETE_PERSON = Statement(f"{_FACES} AND person = ?")
_DELETE_FACE = Statement(f"{_FACES} AND person = ? AND face_id = ?")
# Grouped by person, so that the server can answer in pages and none of them takes long.
_COUNT = Statement(
    "SELECT count(*), max(timestamp) FROM {keyspace}.faces"
    " WHERE directory = ? AND generation = ? AND bucket = ? GROUP BY person",
    500,
)
_ANSWER_WRITTEN = Statement("SELECT writetime(value) FROM {keyspace}.answers WHERE image_id = ?")
_DELETE_ANSWER = Statement("DELETE FROM {keyspace}.answers USING TIMESTAMP ? WHERE image_id = ?")
STATEMENTS = (_DELETE_BUCKET, _DELETE_PERSON, _DELETE_FACE, _COUNT, _ANSWER_WRITTEN, _DELETE_ANSWER)


async def delete_faces(
    client: CassandraClient, directory: str, generations: Sequence[str], until: int, *only: str
) -> None:
    """Deletes faces with a time up to `until` (µs). `only`: the person, or the person and the face_id."""
    statement = (_DELETE_BUCKET, _DELETE_PERSON, _DELETE_FACE)[len(only)]
    buckets = [bucket_of(only[0])] if only else BUCKETS

    def requests() -> Iterator[tuple[Statement, Sequence[Any]]]:
        for generation in generations:
            for bucket in buckets:
                yield statement, (until, directory, generation, bucket, *only)

    await client.run_all(requests(), len(generations) * len(buckets))


async def delete_gallery(client: CassandraClient, directory: str, generation: str) -> int:
    """Deletes all faces of a gallery, whatever their times. Returns how many there were."""
    return sum([await _delete_bucket(client, directory, generation, bucket) for bucket in BUCKETS])


async def delete_answers(client: CassandraClient, image_ids: Sequence[str]) -> None:
    for first in range(0, len(image_ids), IN_FLIGHT):
        await asyncio.gather(*(_delete_answer(client, it) for it in image_ids[first : first + IN_FLIGHT]))


async def _delete_bucket(client: CassandraClient, directory: str, generation: str, bucket: int) -> int:
    people = await client.run(_COUNT, (directory, generation, bucket))
    # Not just the current time: the log's clock, which gives faces their times, may be ahead of ours.
    until = max([time.time_ns() // 1000, *(1000 * latest for _, latest in people if latest is not None)])
    await client.run(_DELETE_BUCKET, (until, directory, generation, bucket))
    return sum(count for count, _ in people)


async def _delete_answer(client: CassandraClient, image_id: str) -> None:
    written = await client.run(_ANSWER_WRITTEN, (image_id,))
    # The clock of the process that wrote it may be ahead of ours. An answer that is not found is deleted too, because
    # its write may have reached only some of the servers.
    until = max([time.time_ns() // 1000, *(at for (at,) in written if at is not None)])
    await client.run(_DELETE_ANSWER, (until, image_id))
