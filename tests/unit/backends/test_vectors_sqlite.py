"""Tests specific to the embedded vector store: deleted data cannot be read in its files."""

import contextlib
import random
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends.sqlite.vector_deletes as deletes
from backends.sqlite import threads
from backends.sqlite.connect import connect
from backends.sqlite.threads import GroupWriter, Operation
from backends.sqlite.vectors import SqliteVectors
from backends.vectors import ERASURES_KEPT_S, Face, FaceVector, PersonSummary, StoredAnswer
from schemas.errors import Unavailable


@pytest.fixture
async def vectors(tmp_path: Path) -> AsyncIterator[SqliteVectors]:
    store = SqliteVectors(tmp_path / "vectors.db")
    yield store
    await store.close()


def some_faces(people: int, each: int, d: int) -> list[FaceVector]:
    numbers = np.random.default_rng(1)
    names = [f"person {uuid.uuid4()}" for _ in range(people)]
    return [
        FaceVector(
            "directory of ann",
            "g1",
            Face(name, f"{uuid.uuid4()}", f"{uuid.uuid4()}", f"{uuid.uuid4()}#0", 1_000),
            numbers.normal(size=d).astype(np.float32),
        )
        for name in names
        for _ in range(each)
    ]


def everything(folder: Path) -> bytes:
    files = {it.name: it.read_bytes() for it in folder.iterdir()}
    assert {"vectors.db", "vectors.db-wal"} <= files.keys()
    return b"".join(files.values())


def count(folder: Path, table: str) -> int:
    """The rows of a table of the store."""
    with contextlib.closing(sqlite3.connect(folder / "vectors.db")) as connection:
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    return int(rows)


def found(it: FaceVector, where: bytes) -> list[bytes]:
    return [needle for needle in needles(it) if needle in where]


def needles(it: FaceVector) -> list[bytes]:
    """Byte strings that would reveal a face: its names, and each part of its vector."""
    face, vector = it.face, it.vector.tobytes()
    names = [name.encode() for name in (face.person, face.face_id, face.image_id, face.source)]
    return [*names, *(vector[at : at + 16] for at in range(0, len(vector), 16))]


async def test_what_is_erased_while_somebody_reads_leaves_the_files_afterwards(
    vectors: SqliteVectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "EMPTY_WAL_AGAIN_S", 0.0)
    erased, other = some_faces(people=2, each=1, d=128)
    await vectors.put_faces([erased])
    with contextlib.closing(sqlite3.connect(tmp_path / "vectors.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM faces").fetchone()
        await vectors.delete_faces("directory of ann", ["g1"], 1_000, person=erased.face.person)
        assert found(erased, everything(tmp_path))
        reader.rollback()
    await vectors.put_faces([other])
    assert not found(erased, everything(tmp_path))


@pytest.mark.parametrize("d", [128, 1_024])  # within a page, and on pages of its own
async def test_an_erased_person_is_in_none_of_the_files(vectors: SqliteVectors, tmp_path: Path, d: int) -> None:
    faces = some_faces(people=10, each=3, d=d)
    erased, others = faces[9:12], [*faces[:9], *faces[12:]]
    await vectors.put_faces(faces)
    before = everything(tmp_path)
    assert all(found(it, before) for it in faces)
    await vectors.delete_faces("directory of ann", ["g1", "g2"], 1_000, person=erased[0].face.person)
    left = everything(tmp_path)
    assert not any(found(it, left) for it in erased)
    assert all(len(found(it, left)) > 0.9 * len(needles(it)) for it in others)  # but for parts that lie on two pages


async def test_an_erased_directory_is_in_none_of_the_files(vectors: SqliteVectors, tmp_path: Path) -> None:
    faces = some_faces(people=300, each=2, d=32)
    for first in range(0, len(faces), 50):
        await vectors.put_faces(faces[first : first + 50])
    assert b"directory of ann" in everything(tmp_path)
    await vectors.delete_faces("directory of ann", ["g1"], 1_000)
    await vectors.put_faces(faces)  # as a delayed worker may do
    left = everything(tmp_path)
    assert b"directory of ann" not in left
    assert not any(found(it, left) for it in faces)


async def test_a_deleted_answer_is_in_none_of_the_files(vectors: SqliteVectors, tmp_path: Path) -> None:
    answers = [StoredAnswer(f"{uuid.uuid4()}", f"it is {uuid.uuid4()} " * 500, 4e9) for _ in range(20)]
    await vectors.put_answers(answers)
    await vectors.delete_answers([it.image_id for it in answers[5:]])
    left = everything(tmp_path)
    readable = [it for it in answers if it.image_id.encode() in left or it.value[:40].encode() in left]
    assert readable == answers[:5]


async def test_a_deleted_generation_is_in_none_of_the_files(vectors: SqliteVectors, tmp_path: Path) -> None:
    faces = some_faces(people=300, each=2, d=32)
    await vectors.put_faces(faces)
    assert await vectors.delete_generation("g1") == len(faces)
    left = everything(tmp_path)
    assert not any(found(it, left) for it in faces)


async def test_a_sweep_overwrites_what_lies_in_unused_parts_of_pages(vectors: SqliteVectors, tmp_path: Path) -> None:
    """Faces of several sizes are put and deleted. SQLite moves some of them to other pages meanwhile, and leaves copies
    where they were.
    """
    order = random.Random(1)
    kept: list[str] = []
    gone: list[str] = []
    for _ in range(20):
        names = [order.randbytes(16).hex() for _ in range(100)]
        sizes = [order.choice((8, 128, 225)) for _ in names]
        await vectors.put_faces(
            [
                FaceVector("acme", "g1", Face(name, "1", "", "", 1_000), np.ones(d, np.float32))
                for name, d in zip(names, sizes, strict=True)
            ]
        )
        kept += names
        order.shuffle(kept)
        going = [kept.pop() for _ in range(len(kept) // 10)]
        with contextlib.closing(sqlite3.connect(tmp_path / "vectors.db", isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.executemany("DELETE FROM faces WHERE directory = 'acme' AND person = ?", [(it,) for it in going])
        gone += going
    await vectors.delete_faces("acme", ["g1"], 1_000, person=kept[0])
    left = everything(tmp_path)
    assert any(name.encode() in left for name in gone), (
        "SQLite no longer leaves copies: a sweep need not rewrite the file"
    )
    await vectors.sweep_erasures()
    left = everything(tmp_path)
    assert not any(name.encode() in left for name in gone)
    assert await vectors.persons("acme", "g1", limit=10_000) == [PersonSummary(name, 1) for name in sorted(kept[1:])]


async def test_a_sweep_does_nothing_where_nothing_was_deleted(
    vectors: SqliteVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_anew = 0
    vacuum = deletes.DeletingWriter.vacuum

    async def counting(self: deletes.DeletingWriter) -> None:
        nonlocal written_anew
        written_anew += 1
        await vacuum(self)

    monkeypatch.setattr(deletes.DeletingWriter, "vacuum", counting)
    (face,) = some_faces(1, 1, 4)
    await vectors.put_faces([face])
    await vectors.delete_faces("elsewhere", ["g1"], 1_000)
    await vectors.delete_answers(["unknown"])
    await vectors.sweep_erasures()
    assert written_anew == 0
    for delete in (
        partial(vectors.delete_faces, "directory of ann", ["g1"], 1_000),
        partial(vectors.delete_answers, ["an image"]),
    ):
        await vectors.put_answers([StoredAnswer("an image", "{}", 4e9)])
        await delete()
        before = written_anew
        for _ in range(2):
            await vectors.sweep_erasures()
        assert written_anew == before + 1


async def test_a_file_that_could_not_be_rewritten_is_rewritten_by_a_later_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect_without_vacuum(path: Path, versions: Sequence[str] = ()) -> sqlite3.Connection:
        connection = connect(path, versions)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)  # VACUUM attaches a file
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(threads, "connect", connect_without_vacuum)
        vectors = SqliteVectors(tmp_path / "vectors.db")
        await vectors.put_faces(some_faces(1, 1, 4))
        await vectors.delete_faces("directory of ann", ["g1"], 1_000)
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError, match="attached"):
                await vectors.sweep_erasures()
        await vectors.close()
    vectors = SqliteVectors(tmp_path / "vectors.db")
    assert count(tmp_path, "remains") == 1
    await vectors.sweep_erasures()
    assert count(tmp_path, "remains") == 0
    await vectors.close()


async def test_an_erasure_is_forgotten_after_a_while(
    vectors: SqliteVectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (face,) = some_faces(1, 1, 4)
    for kept_s, there in ((ERASURES_KEPT_S - 60, []), (ERASURES_KEPT_S + 60, [face.face])):
        await vectors.delete_faces(
            "directory of ann", [f"g{number}" for number in range(deletes.STEP_ROWS + 50)], 1_000
        )
        now = time.time()
        monkeypatch.setattr(time, "time", lambda now=now, kept_s=kept_s: now + kept_s)
        await vectors.sweep_erasures()
        monkeypatch.undo()
        await vectors.put_faces([face])
        assert await vectors.faces("directory of ann", "g1", face.face.person) == there
    assert count(tmp_path, "erasures") == 0


async def test_others_write_while_a_generation_is_deleted(
    vectors: SqliteVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two steps; and where it was interrupted, the rest is deleted later."""
    faces = some_faces(people=1_000, each=2, d=4)
    await vectors.put_faces(faces)
    steps, run = 0, GroupWriter.run

    async def interrupted(writer: GroupWriter, operation: Operation[Any]) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:
            await vectors.put_answers([StoredAnswer("meanwhile", "{}", 4e9)])
        if steps == 5:
            raise Unavailable("interrupted")
        return await run(writer, operation)

    with monkeypatch.context() as patch:
        patch.setattr(GroupWriter, "run", interrupted)
        with pytest.raises(Unavailable, match="interrupted"):
            await vectors.delete_generation("g1")
    assert await vectors.answer("meanwhile") is not None
    left = [face async for page in vectors.read_faces("directory of ann", "g1") for face in page]
    assert 0 < len(left) < len(faces)
    assert await vectors.delete_generation("g1") == len(left)
    assert await vectors.directories("g1") == []
