"""The vector store in Cassandra.

A gallery has 16 partitions, and a hash of a person's name says which one has the person's faces. A face is written with
the time of its event as its timestamp, so that the later one wins, in whatever order they are written. Faces are
counted from the rows when they are listed, so there are no counters to keep correct.
"""

import asyncio
import re
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Container, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.cassandra import deletes as deletes
from backends.cassandra import directories as directories
from backends.cassandra import schema as schema
from backends.cassandra.client import CassandraClient, Columns, Statement
from backends.cassandra.connect import OPTIONS, PORT, tls_of
from backends.cassandra.schema import BUCKETS, bucket_of
from backends.driver_logs import forward_driver_logs
from backends.urls import server_of
from backends.vectors import (
    ANSWERS_IN_PAGE,
    EXPIRED_KEPT_S,
    MOST_IN_BLOCK,
    ApiKey,
    Face,
    FaceBlock,
    FaceVector,
    PersonSummary,
    StoredAnswer,
    VectorStore,
    deleted_key_prefix,
)
from schemas.errors import ConfigurationError

SETTING = "FACESTREAM_VECTORS"
# Rows in a page of a gallery, and pages requested at once. Larger numbers do not read a gallery faster, and a page
# takes four times its size in memory.
PAGE_FACES, PAGES_AHEAD = 500, 2
# People read from each bucket beyond its share, so that a listing seldom needs a second request.
SPARE_PEOPLE = 10
# Far longer than answers are kept. Cassandra 4 allows no expiry after January 2038.
LONGEST_TTL_S = 5 * 365 * 86_400
ALL_KEYS = "all"  # API keys are few, and are in one partition

_PUT_FACE = Statement(
    "INSERT INTO {keyspace}.faces (directory, generation, bucket, person, face_id, image_id, source, timestamp, vector)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
_GALLERY = Statement(
    "SELECT person, face_id, vector FROM {keyspace}.faces WHERE directory = ? AND generation = ? AND bucket = ?",
    PAGE_FACES,
)
_PERSONS = Statement(
    "SELECT person, count(*) FROM {keyspace}.faces"
    " WHERE directory = ? AND generation = ? AND bucket = ? AND person > ? GROUP BY person LIMIT ?"
)
_FACES = Statement(
    "SELECT person, face_id, image_id, source, timestamp FROM {keyspace}.faces"
    " WHERE directory = ? AND generation = ? AND bucket = ? AND person = ?"
)
_GALLERY_FACES = Statement(
    "SELECT person, face_id, image_id, source, timestamp FROM {keyspace}.faces"
    " WHERE directory = ? AND generation = ? AND bucket = ?",
    PAGE_FACES,
)
_PUT_ANSWER = Statement("INSERT INTO {keyspace}.answers (image_id, value, expires_at) VALUES (?, ?, ?) USING TTL ?")
_ANSWER = Statement("SELECT image_id, value, expires_at FROM {keyspace}.answers WHERE image_id = ?")
_ANSWERS = Statement("SELECT image_id, value, expires_at FROM {keyspace}.answers", ANSWERS_IN_PAGE)
_PUT_KEY = Statement(
    "INSERT INTO {keyspace}.api_keys (part, key_id, secret_hash, scope, directory, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_KEYS = Statement("SELECT key_id, secret_hash, scope, directory, created_at FROM {keyspace}.api_keys WHERE part = ?")
_KEY_WRITTEN = Statement("SELECT writetime(secret_hash) FROM {keyspace}.api_keys WHERE part = ? AND key_id = ?")
_DELETE_KEY = Statement("DELETE FROM {keyspace}.api_keys USING TIMESTAMP ? WHERE part = ? AND key_id = ?")
_STATEMENTS = (
    _PUT_FACE, _GALLERY, _GALLERY_FACES, _PERSONS, _FACES, _PUT_ANSWER, _ANSWER, _ANSWERS,
    _PUT_KEY, _KEYS, _KEY_WRITTEN, _DELETE_KEY, *deletes.STATEMENTS, *directories.STATEMENTS,
)  # fmt: skip


class CassandraVectors(VectorStore):
    """See VectorStore. `cassandra://user:password@host:9042,host:9042/keyspace`; options: tls (true or false), ca_file,
    datacenter (the one to connect to, by default that of the hosts), replication (factor of a keyspace that create()
    makes), password_file.

    It belongs to one event loop, and connects at its first use. Needs Cassandra 4 or newer.
    """

    def __init__(self, url: str) -> None:
        """Raises ConfigurationError. It does not connect before the first call."""
        server = server_of(url, setting=SETTING, default_port=PORT, options=OPTIONS)
        if not re.fullmatch(r"[A-Za-z0-9_]{1,48}", server.path):
            raise ConfigurationError(
                f"{SETTING}: '{server.path}' is not a keyspace: a name has up to 48 letters, digits and '_'"
            )
        tls_of(server)
        self._keyspace = server.path
        self._replication = server.number("replication", 1)
        self._client = CassandraClient(server, _STATEMENTS, lambda session: schema.require(session, server.path))
        forward_driver_logs("cassandra")

    def __repr__(self) -> str:
        return f"CassandraVectors('{self._client}')"

    async def create(self) -> None:
        await self._client.run_on_new_connection(
            lambda session: schema.create(session, self._keyspace, self._replication)
        )

    async def put_faces(self, faces: Sequence[FaceVector], *, listed: Container[tuple[str, str]] = ()) -> None:
        for it in faces:
            it.check()  # before anything is written
        galleries = {(it.directory, it.generation) for it in faces}
        async with directories.keep_listed(self._client, [it for it in galleries if it not in listed]):
            await self._client.run_all(((_PUT_FACE, _row(it)) for it in faces), len(faces))

    async def read_gallery(self, directory: str, generation: str) -> AsyncIterator[FaceBlock]:
        next_pages: list[tuple[int, bytes | None]] = [(bucket, None) for bucket in BUCKETS]
        reading: dict[asyncio.Task[Columns], int] = {}

        def read_on() -> None:
            while next_pages and len(reading) < PAGES_AHEAD:
                bucket, begin = next_pages.pop()
                page = self._client.columns(_GALLERY, (directory, generation, bucket), begin)
                reading[asyncio.create_task(page)] = bucket

        try:
            read_on()
            while reading:
                done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
                blocks = []
                while done:
                    task = done.pop()
                    bucket, page = reading.pop(task), task.result()
                    if page.next is not None:
                        next_pages.append((bucket, page.next))
                    if len(page.columns["face_id"]):
                        blocks.append(_block(page.columns))
                    del task, page
                read_on()
                while blocks:
                    yield blocks.pop()
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    async def read_faces(self, directory: str, generation: str) -> AsyncIterator[list[Face]]:
        # The paging state of the next page of each bucket that has not ended.
        next_pages: dict[int, bytes | None] = dict.fromkeys(BUCKETS)
        ahead: dict[int, list[Face]] = {bucket: [] for bucket in BUCKETS}
        while next_pages or any(ahead.values()):
            short = [bucket for bucket in next_pages if not ahead[bucket]]
            pages = await asyncio.gather(
                *(self._client.page(_GALLERY_FACES, (directory, generation, it), next_pages[it]) for it in short)
            )
            for bucket, page in zip(short, pages, strict=True):
                ahead[bucket] = [Face(*row) for row in page.rows]
                if page.next is None:
                    del next_pages[bucket]
                else:
                    next_pages[bucket] = page.next
            if any(not ahead[bucket] for bucket in next_pages):
                continue  # a page may be empty although it is not the last
            # The next pages of a bucket only have faces after the last one of its page.
            until = min((_sort_key(ahead[bucket][-1]) for bucket in next_pages), default=None)
            ready: list[Face] = []
            for bucket, faces in ahead.items():
                count = len(faces) if until is None else bisect_right(faces, until, key=_sort_key)
                ready += faces[:count]
                ahead[bucket] = faces[count:]
            ready.sort(key=_sort_key)
            for first in range(0, len(ready), MOST_IN_BLOCK):
                yield ready[first : first + MOST_IN_BLOCK]

    async def delete_faces(
        self,
        directory: str,
        generations: Sequence[str],
        erased_at: int,
        *,
        person: str | None = None,
        face_id: str | None = None,
    ) -> None:
        only = deleted_key_prefix(person, face_id)
        await deletes.delete_faces(self._client, directory, generations, 1000 * erased_at, *only)
        for generation in generations:
            await directories.unlist_if_empty(self._client, generation, directory)

    async def delete_generation(self, generation: str) -> int:
        deleted = 0
        for directory in await directories.listed_directories(self._client, generation):
            deleted += await deletes.delete_gallery(self._client, directory, generation)
            await directories.unlist_if_empty(self._client, generation, directory)
        return deleted

    async def sweep_erasures(self) -> None:
        """Does nothing: the servers do it."""

    async def directories(self, generation: str) -> list[str]:
        return await directories.directories_with_faces(self._client, generation)

    async def persons(
        self, directory: str, generation: str, *, after: str = "", limit: int = 100
    ) -> list[PersonSummary]:
        found: dict[int, list[PersonSummary]] = {bucket: [] for bucket in BUCKETS}
        people_each = limit // len(BUCKETS) + SPARE_PEOPLE
        short = list(BUCKETS)  # buckets that may have more people who belong on the page
        while short:
            last_names = [found[bucket][-1].person if found[bucket] else after for bucket in short]
            more = await asyncio.gather(
                *(
                    self._client.run(_PERSONS, (directory, generation, bucket, last, people_each))
                    for bucket, last in zip(short, last_names, strict=True)
                )
            )
            for bucket, rows in zip(short, more, strict=True):
                found[bucket] += [PersonSummary(*row) for row in rows]
            unfinished = [bucket for bucket, rows in zip(short, more, strict=True) if len(rows) == people_each]
            page = sorted((it for summaries in found.values() for it in summaries), key=lambda it: it.person)[:limit]
            short = [it for it in unfinished if len(page) < limit or found[it][-1].person < page[-1].person]
        return page

    async def faces(self, directory: str, generation: str, person: str) -> list[Face]:
        rows = await self._client.run(_FACES, (directory, generation, bucket_of(person), person))
        return [Face(*row) for row in rows]

    async def put_answers(self, answers: Sequence[StoredAnswer]) -> None:
        now = time.time()
        # They are sent at the same time, with the current time as timestamp: of two answers to an image, the later one
        # wins.
        rows = ((it.image_id, it.value, it.expires_at, _ttl(it.expires_at, now)) for it in answers)
        await self._client.run_all(((_PUT_ANSWER, row) for row in rows), len(answers))

    async def answer(self, image_id: str) -> StoredAnswer | None:
        rows = await self._client.run(_ANSWER, (image_id,))
        return StoredAnswer(*rows[0]) if rows else None

    async def read_answers(self) -> AsyncIterator[list[StoredAnswer]]:
        begin: bytes | None = None
        while True:
            page = await self._client.page(_ANSWERS, (), begin)
            if page.rows:
                yield [StoredAnswer(*row) for row in page.rows]
            if page.next is None:
                return
            begin = page.next

    async def delete_answers(self, image_ids: Sequence[str]) -> None:
        await deletes.delete_answers(self._client, image_ids)

    async def sweep_answers(self, expired_before: float) -> None:
        """Does nothing: answers expire by their TTL."""

    async def put_api_key(self, key: ApiKey) -> None:
        values = (ALL_KEYS, key.key_id, key.secret_hash, key.scope, key.directory, key.created_at)
        await self._client.run(_PUT_KEY, values)

    async def api_keys(self) -> list[ApiKey]:
        return [ApiKey(*row) for row in await self._client.run(_KEYS, (ALL_KEYS,))]

    async def delete_api_key(self, key_id: str) -> bool:
        written = await self._client.run(_KEY_WRITTEN, (ALL_KEYS, key_id))
        if not written:
            return False
        # The clock of the process that wrote it may be ahead of ours.
        at = max(int(time.time() * 1e6), written[0][0])
        await self._client.run(_DELETE_KEY, (at, ALL_KEYS, key_id))
        return True

    async def ping(self) -> None:
        await self._client.run(_KEY_WRITTEN, (ALL_KEYS, ""))

    async def close(self) -> None:
        await self._client.close()


def _sort_key(face: Face) -> tuple[str, str]:
    return face.person, face.face_id


def _row(face_vector: FaceVector) -> tuple[Any, ...]:
    face = face_vector.face
    names = (
        face_vector.directory,
        face_vector.generation,
        bucket_of(face.person),
        face.person,
        face.face_id,
        face.image_id,
        face.source,
    )
    return (*names, face.timestamp, face_vector.vector.astype("<f4", copy=False).tobytes(), 1000 * face.timestamp)


def _ttl(expires_at: float, now: float) -> int:
    return int(min(max(expires_at + EXPIRED_KEPT_S - now, 1), LONGEST_TTL_S))


def _block(columns: dict[str, Any]) -> FaceBlock:
    blobs = columns["vector"].tolist()
    numbers: NDArray[np.float32] = np.frombuffer(b"".join(blobs), "<f4").astype(np.float32, copy=False)
    return FaceBlock(columns["person"].tolist(), columns["face_id"].tolist(), numbers.reshape(len(blobs), -1))  # (n, D)
