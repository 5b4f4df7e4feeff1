"""Data that a suspended worker has written after an erasure is deleted, and nothing else."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.files.objects import FileObjects
from backends.log import NewRecord
from backends.sqlite.log import SqliteLog
from facestream.runtime.system_state import SystemState
from schemas.ids import original_key
from stream.erase.erasures import object_keys_of_image
from stream.erase.leftovers import delete_leftovers
from stream.topics import FACES_LEARNED
from tests.records import dead_letter_of, erasure, erasure_keys, face_learned, image_id, image_received, origin_at
from tests.unit.stream.stages import read_all

VERSION, BEFORE = 1_000, 100
ERASURE = erasure(at=VERSION, before=BEFORE)


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[FileObjects]:
    store = FileObjects(tmp_path / "objects")
    yield store
    await store.close()


def learned(name: str, learned_at: int, person: str = "obama") -> NewRecord:
    value = face_learned(name, learned_at=learned_at, person=person)
    return NewRecord(FACES_LEARNED.name, value.image_id, value.encode(), "acme")


async def put(objects: FileObjects, *names: str) -> None:
    for name in names:
        for key in object_keys_of_image(image_id(name)):
            await objects.put(key, b"picture")


async def kept(objects: FileObjects) -> set[str]:
    return {it.key async for it in objects.list()}


async def last(log: SqliteLog) -> dict[str, bool]:
    """By image: whether its last record in the changelog is a face, and no tombstone."""
    return {it.key: it.value is not None for it in await read_all(log, FACES_LEARNED.name)}


KEYS = erasure_keys("behind")


@pytest.mark.parametrize("what", KEYS)
async def test_a_face_written_after_its_erasure_is_deleted(
    log: SqliteLog, objects: FileObjects, state: SystemState, what: str
) -> None:
    await put(objects, "behind", "again")
    await log.append([learned("behind", VERSION), learned("again", VERSION + 1)])
    assert await delete_leftovers(log, objects, state.erasures) == 0
    state.erasures.add(KEYS[what], ERASURE)
    assert await delete_leftovers(log, objects, state.erasures) == 1
    assert await last(log) == {image_id("behind"): False, image_id("again"): True}
    (tombstone,) = [it for it in await read_all(log, FACES_LEARNED.name) if it.value is None]
    assert tombstone.partition == (await read_all(log, FACES_LEARNED.name))[0].partition  # the directory's
    assert await kept(objects) == set(object_keys_of_image(image_id("again")))
    assert await delete_leftovers(log, objects, state.erasures) == 0


async def test_only_the_last_record_of_an_image_counts(
    log: SqliteLog, objects: FileObjects, state: SystemState
) -> None:
    """The last record is a tombstone, a new learn with the same Idempotency-Key, or unreadable."""
    names = ("erased", "again", "unreadable")
    await put(objects, *names)
    state.erasures.add(KEYS["person"], ERASURE)
    await log.append([learned(name, VERSION - 1) for name in names])
    await log.append([NewRecord(FACES_LEARNED.name, image_id("erased"), None, "acme"), learned("again", VERSION + 1)])
    await log.append([NewRecord(FACES_LEARNED.name, image_id("unreadable"), b"{}", "acme")])
    assert await delete_leftovers(log, objects, state.erasures) == 0
    assert await kept(objects) == {key for name in names for key in object_keys_of_image(image_id(name))}


async def test_the_face_of_another_person_is_kept(log: SqliteLog, objects: FileObjects, state: SystemState) -> None:
    state.erasures.add(KEYS["person"], ERASURE)
    await log.append([learned("other", VERSION - 1, person="biden")])
    assert await delete_leftovers(log, objects, state.erasures) == 0
    assert await last(log) == {image_id("other"): True}


@pytest.mark.parametrize(("offset", "gone"), [(BEFORE - 1, True), (BEFORE, False)])
async def test_the_pictures_of_an_erased_dead_letter_are_deleted(
    log: SqliteLog, objects: FileObjects, state: SystemState, offset: int, gone: bool
) -> None:
    await put(objects, "portrait")
    event = image_received("portrait", "learn", origin=origin_at(offset))
    await log.append([dead_letter_of(event)])
    state.erasures.add(KEYS["person"], ERASURE)
    await delete_leftovers(log, objects, state.erasures)
    assert (original_key(event.image_id, "learn") not in await kept(objects)) == gone
