"""Deletes from the embedded vector store, so that deleted data does not come back and cannot be read in the files.

It works in small steps, each a short transaction, so that other writes continue meanwhile. The table `erasures`, which
has digests of names, prevents a face from being put later with a time before its erasure. SQLite overwrites what it
deletes (secure_delete), but leaves copies of rows that it has moved to other pages in unused parts of pages: about one
face in some thousands can still be read there. Only VACUUM removes these copies.
"""

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterable

from backends.sqlite.connect import to_port_error
from backends.sqlite.threads import GroupWriter, Operation
from backends.vectors import ERASURES_KEPT_S

# Faces deleted in one transaction, which delays other writes by some ms.
STEP_ROWS = 500
ALL_TIMES = (1 << 63) - 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS erasures (
    erased BLOB PRIMARY KEY,                    -- see digests()
    at INTEGER NOT NULL,                        -- ms: faces up to this time are erased
    written_at REAL NOT NULL                    -- seconds since the epoch
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS erasures_by_age ON erasures (written_at);
CREATE TABLE IF NOT EXISTS remains (            -- one row: the deletes since the file was last rewritten
    id INTEGER PRIMARY KEY CHECK (id = 0),
    deletes INTEGER NOT NULL
);
"""

_RECORD_ERASURE = """
INSERT INTO erasures (erased, at, written_at) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET at = MAX(at, excluded.at), written_at = excluded.written_at
"""
_COUNT_DELETE = "INSERT INTO remains (id, deletes) VALUES (0, 1) ON CONFLICT DO UPDATE SET deletes = deletes + 1"
_NEXT_FACES = """
SELECT person, face_id, timestamp FROM faces
WHERE directory = ? AND generation = ? AND (person, face_id) >= (?, ?) {those} ORDER BY person, face_id LIMIT ?
"""
_DELETE_FACE = "DELETE FROM faces WHERE directory = ? AND generation = ? AND person = ? AND face_id = ?"


class DeletingWriter(GroupWriter):
    """A GroupWriter that can also rewrite its file (VACUUM)."""

    _vacuum: list[Exception | None] | None = None

    async def vacuum(self) -> None:
        """Rewrites the file, about as fast as the disk can write. Other writes wait meanwhile. Raises StorageFull or
        Unavailable.
        """
        outcome: list[Exception | None] = []

        def after_the_group(connection: sqlite3.Connection) -> None:
            self._vacuum, self._empty_wal = outcome, True

        await self.run(after_the_group)
        if outcome[0] is not None:
            raise outcome[0]

    def _on_commit(self) -> Callable[[], None] | None:
        outcome, self._vacuum = self._vacuum, None
        if outcome is not None and self._connection is not None:
            try:
                self._connection.execute("VACUUM")
                outcome.append(None)
            except sqlite3.Error as error:
                outcome.append(to_port_error(error, self._path))
        return None

    def _on_rollback(self) -> None:
        self._vacuum = None


def digests(*names: str) -> list[bytes]:
    """The digests of all prefixes of (generation, directory, person, face_id), as the table `erasures` has them."""
    state, found = hashlib.sha256(), []
    for name in names:
        state.update(b"%d:%b" % (len(name.encode()), name.encode()))
        found.append(state.digest())
    return found


def record_erasures(erased: Iterable[tuple[str, ...]], erased_at: int) -> Operation[None]:
    """Records erasures. Each is (generation, directory), or has the person too, or the person and the face_id."""
    rows = [(digests(*names)[-1], erased_at, time.time()) for names in erased]
    return lambda connection: connection.executemany(_RECORD_ERASURE, rows).close()


def delete_step(
    directory: str, generation: str, begin: tuple[str, str], until: int, *only: str
) -> Operation[tuple[int, tuple[str, str] | None]]:
    """Reads the next faces from (person, face_id) on, and deletes those with a time up to `until` (ms).

    `only`: the person, or the person and the face_id. Returns how many it deleted, and where the next step begins: None
    at the end.
    """
    query = _NEXT_FACES.format(those="".join((" AND person = ?", " AND face_id = ?")[: len(only)]))

    def delete(connection: sqlite3.Connection) -> tuple[int, tuple[str, str] | None]:
        rows = connection.execute(query, (directory, generation, *begin, *only, STEP_ROWS)).fetchall()
        gone = [(directory, generation, person, face_id) for person, face_id, timestamp in rows if timestamp <= until]
        if gone:
            connection.executemany(_DELETE_FACE, gone)
            connection.execute(_COUNT_DELETE)
        return len(gone), rows[-1][:2] if len(rows) == STEP_ROWS else None

    return delete


def delete_answers_step(image_ids: list[str]) -> Operation[None]:
    def delete(connection: sqlite3.Connection) -> None:
        if connection.executemany("DELETE FROM answers WHERE image_id = ?", [(it,) for it in image_ids]).rowcount:
            connection.execute(_COUNT_DELETE)

    return delete


async def sweep(writer: DeletingWriter) -> None:
    """Deletes old erasures, and rewrites the file if something was deleted since it was last rewritten."""
    while await writer.run(_delete_old_erasures) == STEP_ROWS:
        pass
    deletes = await writer.run(_deletes_since_vacuum)
    if deletes:
        await writer.vacuum()
        # Unless another process has deleted something meanwhile.
        await writer.run(
            lambda connection: connection.execute("DELETE FROM remains WHERE deletes = ?", (deletes,)).close()
        )


def _delete_old_erasures(connection: sqlite3.Connection) -> int:
    before = time.time() - ERASURES_KEPT_S
    query = "DELETE FROM erasures WHERE erased IN (SELECT erased FROM erasures WHERE written_at < ? LIMIT ?)"
    return connection.execute(query, (before, STEP_ROWS)).rowcount


def _deletes_since_vacuum(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT deletes FROM remains").fetchone()
    return row[0] if row else 0
