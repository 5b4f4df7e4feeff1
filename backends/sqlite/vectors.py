"""The embedded vector store: faces, answers and API keys in one SQLite file.

Faces are ordered by gallery, so that reading a gallery reads one range of rows. Triggers keep the number of faces of
each person, so that listing people and directories does not read the vectors. Deleting is in vector_deletes.py.
"""

import sqlite3
from collections.abc import AsyncIterator, Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.sqlite import vector_deletes as deletes
from backends.sqlite.threads import Operation, ReadThread
from backends.vectors import (
    ANSWERS_IN_PAGE,
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

# Answers deleted in one transaction, so that a sweep delays other writes only briefly.
SWEEP_ANSWERS = 500

_VERSION_1 = """
CREATE TABLE IF NOT EXISTS faces (
    directory TEXT NOT NULL,
    generation TEXT NOT NULL,
    person TEXT NOT NULL,
    face_id TEXT NOT NULL,
    image_id TEXT NOT NULL,
    source TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    vector BLOB NOT NULL,                       -- float32, little-endian
    PRIMARY KEY (directory, generation, person, face_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS persons (
    generation TEXT NOT NULL,
    directory TEXT NOT NULL,
    person TEXT NOT NULL,
    faces INTEGER NOT NULL,
    PRIMARY KEY (generation, directory, person)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS face_added AFTER INSERT ON faces BEGIN
    INSERT INTO persons (generation, directory, person, faces) VALUES (new.generation, new.directory, new.person, 1)
        ON CONFLICT DO UPDATE SET faces = faces + 1;
END;
CREATE TRIGGER IF NOT EXISTS face_deleted AFTER DELETE ON faces BEGIN
    UPDATE persons SET faces = faces - 1
        WHERE generation = old.generation AND directory = old.directory AND person = old.person;
    DELETE FROM persons
        WHERE generation = old.generation AND directory = old.directory AND person = old.person AND faces = 0;
END;
CREATE TABLE IF NOT EXISTS answers (
    image_id TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    expires_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_by_expiry ON answers (expires_at);
CREATE TABLE IF NOT EXISTS api_keys (
    key_id TEXT PRIMARY KEY,
    secret_hash TEXT NOT NULL,
    scope TEXT NOT NULL,
    directory TEXT,
    created_at REAL NOT NULL
) WITHOUT ROWID;
"""

VERSIONS = (_VERSION_1 + deletes.SCHEMA,)

_PUT_ANSWER = """
INSERT INTO answers (image_id, value, expires_at) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at
"""

_PUT_FACE = """
INSERT INTO faces (directory, generation, person, face_id, image_id, source, timestamp, vector)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8
WHERE NOT EXISTS (SELECT 1 FROM erasures WHERE erased IN (?9, ?10, ?11) AND at >= ?7)
ON CONFLICT DO UPDATE SET
    image_id = excluded.image_id, source = excluded.source, timestamp = excluded.timestamp, vector = excluded.vector
WHERE excluded.timestamp >= timestamp
"""

_READ_BLOCK = """
SELECT person, face_id, vector FROM faces
WHERE directory = ? AND generation = ? AND (person, face_id) > (?, ?) ORDER BY person, face_id LIMIT ?
"""

_READ_FACES = """
SELECT person, face_id, image_id, source, timestamp FROM faces
WHERE directory = ? AND generation = ? AND (person, face_id) > (?, ?) ORDER BY person, face_id LIMIT ?
"""

# Ordered by image_id, because VACUUM may change rowids.
_READ_ANSWERS = "SELECT image_id, value, expires_at FROM answers WHERE image_id > ? ORDER BY image_id LIMIT ?"

# Jumps from one directory to the next, without reading the people in between.
_DIRECTORIES = """
WITH RECURSIVE found (directory) AS (
    SELECT MIN(directory) FROM persons WHERE generation = ?1
    UNION ALL
    SELECT (SELECT MIN(directory) FROM persons WHERE generation = ?1 AND directory > found.directory)
    FROM found WHERE found.directory IS NOT NULL
)
SELECT directory FROM found WHERE directory IS NOT NULL
"""


class SqliteVectors(VectorStore):
    """See VectorStore. It belongs to one event loop, and opens its file at its first use.

    Galleries have a separate read thread: reading them takes long, and answers and listings must not wait for it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = deletes.DeletingWriter(path, VERSIONS, name="vectors-writer")
        self._reads = ReadThread(path, name="vectors-reads")
        self._gallery_reads = ReadThread(path, name="vectors-gallery")
        self._opened = False

    def __repr__(self) -> str:
        return f"SqliteVectors({str(self._path)!r})"

    async def create(self) -> None:
        await self._open()

    async def put_faces(self, faces: Sequence[FaceVector], *, listed: Container[tuple[str, str]] = ()) -> None:
        await self._write(_PUT_FACE, [_row(each) for each in faces])

    async def read_gallery(self, directory: str, generation: str) -> AsyncIterator[FaceBlock]:
        await self._open()
        after = ("", "")
        while True:
            # Each block is read in a separate snapshot: while one is open, the WAL cannot be reused, and the caller may
            # take long.
            block = await self._gallery_reads.run(_read_block(directory, generation, after))
            if block is None:
                return
            yield block
            if len(block) < MOST_IN_BLOCK:
                return
            after = (block.persons[-1], block.face_ids[-1])

    async def read_faces(self, directory: str, generation: str) -> AsyncIterator[list[Face]]:
        after = ("", "")
        while rows := await self._fetch_from(
            self._gallery_reads, _READ_FACES, (directory, generation, *after, MOST_IN_BLOCK)
        ):
            yield [Face(*row) for row in rows]
            after = rows[-1][:2]

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
        # This comes first: afterwards none of the faces can be put again.
        await self._writer.run(
            deletes.record_erasures([(generation, directory, *only) for generation in generations], erased_at)
        )
        for generation in generations:
            await self._delete(directory, generation, erased_at, *only)
        await self._writer.empty_wal()

    async def delete_generation(self, generation: str) -> int:
        deleted = 0
        for directory in await self.directories(generation):
            deleted += await self._delete(directory, generation, deletes.ALL_TIMES)
        await self._writer.empty_wal()
        return deleted

    async def sweep_erasures(self) -> None:
        await deletes.sweep(self._writer)

    async def directories(self, generation: str) -> list[str]:
        rows = await self._fetch(_DIRECTORIES, (generation,))
        return [directory for (directory,) in rows]

    async def persons(
        self, directory: str, generation: str, *, after: str = "", limit: int = 100
    ) -> list[PersonSummary]:
        rows = await self._fetch(
            "SELECT person, faces FROM persons"
            " WHERE generation = ? AND directory = ? AND person > ? ORDER BY person LIMIT ?",
            (generation, directory, after, limit),
        )
        return [PersonSummary(*row) for row in rows]

    async def faces(self, directory: str, generation: str, person: str) -> list[Face]:
        rows = await self._fetch(
            "SELECT person, face_id, image_id, source, timestamp FROM faces"
            " WHERE directory = ? AND generation = ? AND person = ? ORDER BY face_id",
            (directory, generation, person),
        )
        return [Face(*row) for row in rows]

    async def put_answers(self, answers: Sequence[StoredAnswer]) -> None:
        await self._write(_PUT_ANSWER, [(each.image_id, each.value, each.expires_at) for each in answers])

    async def answer(self, image_id: str) -> StoredAnswer | None:
        rows = await self._fetch("SELECT image_id, value, expires_at FROM answers WHERE image_id = ?", (image_id,))
        return StoredAnswer(*rows[0]) if rows else None

    async def read_answers(self) -> AsyncIterator[list[StoredAnswer]]:
        after = ""
        while rows := await self._fetch_from(self._gallery_reads, _READ_ANSWERS, (after, ANSWERS_IN_PAGE)):
            yield [StoredAnswer(*row) for row in rows]
            after = rows[-1][0]

    async def delete_answers(self, image_ids: Sequence[str]) -> None:
        for first in range(0, len(image_ids), deletes.STEP_ROWS):
            await self._writer.run(deletes.delete_answers_step(list(image_ids[first : first + deletes.STEP_ROWS])))
        await self._writer.empty_wal()

    async def sweep_answers(self, expired_before: float) -> None:
        swept = SWEEP_ANSWERS
        while swept == SWEEP_ANSWERS:
            swept = await self._write(
                "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM answers WHERE expires_at < ? LIMIT ?)",
                [(expired_before, SWEEP_ANSWERS)],
            )

    async def put_api_key(self, key: ApiKey) -> None:
        await self._write(
            "INSERT OR REPLACE INTO api_keys (key_id, secret_hash, scope, directory, created_at)"
            " VALUES (?, ?, ?, ?, ?)",
            [(key.key_id, key.secret_hash, key.scope, key.directory, key.created_at)],
        )

    async def api_keys(self) -> list[ApiKey]:
        rows = await self._fetch(
            "SELECT key_id, secret_hash, scope, directory, created_at FROM api_keys ORDER BY key_id"
        )
        return [ApiKey(*row) for row in rows]

    async def delete_api_key(self, key_id: str) -> bool:
        return await self._write("DELETE FROM api_keys WHERE key_id = ?", [(key_id,)]) > 0

    async def ping(self) -> None:
        await self._fetch("SELECT 1 FROM api_keys LIMIT 1")

    async def close(self) -> None:
        await self._writer.close()
        await self._reads.close()
        await self._gallery_reads.close()

    async def _open(self) -> None:
        """Has the writer create the file and its tables, which the read threads need."""
        if not self._opened:
            await self._writer.run(lambda connection: None)
            self._opened = True

    async def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> int:
        """Runs the statement for each row. Returns how many rows it changed."""
        return await self._writer.run(lambda connection: connection.executemany(statement, rows).rowcount)

    async def _delete(self, directory: str, generation: str, until: int, *only: str) -> int:
        deleted = 0
        begin: tuple[str, str] | None = ("", "")
        while begin is not None:
            step, begin = await self._writer.run(deletes.delete_step(directory, generation, begin, until, *only))
            deleted += step
        return deleted

    async def _fetch(self, query: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return await self._fetch_from(self._reads, query, parameters)

    async def _fetch_from(self, reads: ReadThread, query: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        await self._open()
        return await reads.run(lambda connection: connection.execute(query, parameters).fetchall())


def _row(face_vector: FaceVector) -> tuple[Any, ...]:
    face_vector.check()
    face = face_vector.face
    names = (face_vector.directory, face_vector.generation, face.person, face.face_id, face.image_id, face.source)
    _, *erased = deletes.digests(face_vector.generation, face_vector.directory, face.person, face.face_id)
    return (*names, face.timestamp, face_vector.vector.astype("<f4", copy=False).tobytes(), *erased)


def _read_block(directory: str, generation: str, after: tuple[str, str]) -> Operation[FaceBlock | None]:
    def read(connection: sqlite3.Connection) -> FaceBlock | None:
        persons: list[str] = []
        face_ids: list[str] = []
        blobs: list[bytes] = []
        # Not fetchall: the garbage collector would traverse all the tuples.
        for person, face_id, blob in connection.execute(_READ_BLOCK, (directory, generation, *after, MOST_IN_BLOCK)):
            persons.append(person)
            face_ids.append(face_id)
            blobs.append(blob)
        if not blobs:
            return None
        numbers: NDArray[np.float32] = np.frombuffer(b"".join(blobs), "<f4").astype(np.float32, copy=False)
        return FaceBlock(persons, face_ids, numbers.reshape(len(blobs), -1))  # (faces, D)

    return read
