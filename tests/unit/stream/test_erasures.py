"""The erasures that every process knows."""

from collections.abc import AsyncIterator

import pytest

from backends.log import NewRecord
from backends.sqlite.log import SqliteLog
from schemas.erasures import directory_erasure_key, face_erasure_key, image_erasure_key, person_erasure_key
from schemas.ids import crop_key, learned_face_id, original_key, sheet_key
from stream.erase.erasures import NEVER, ErasurePosition, Erasures, object_keys_of_image
from stream.topics import ERASURES
from tests.records import erasure_keys, erasure_record, image_id

IMAGE_ID, OTHER_IMAGE_ID = image_id("image"), image_id("other")
FACE_ID = learned_face_id(IMAGE_ID)
KEYS = erasure_keys("image")
MARK = ErasurePosition(time_ms=1_000, offset=7)


@pytest.fixture
async def erasures(log: SqliteLog) -> AsyncIterator[Erasures]:
    erasures = Erasures(log)
    await erasures.start()
    yield erasures
    await erasures.close()


def record(key: str, mark: ErasurePosition) -> NewRecord:
    return erasure_record(key, at=mark.time_ms, partition=3, offset=mark.offset)


@pytest.mark.parametrize("what", KEYS)
async def test_an_image_falls_under_erasures_of_its_face_person_and_directory(erasures: Erasures, what: str) -> None:
    assert erasures.empty
    erasures.add(KEYS[what], MARK)
    assert not erasures.empty
    assert erasures.last_erasure_of_image("acme", "obama", IMAGE_ID) == MARK
    assert erasures.last_erasure_of_image("acme", None, IMAGE_ID) == (NEVER if what == "person" else MARK)
    assert erasures.last_erasure_of_image(None, None, IMAGE_ID) == (MARK if what in ("image", "face") else NEVER)
    assert erasures.last_erasure_of_image("acme", "biden", OTHER_IMAGE_ID) == (MARK if what == "directory" else NEVER)
    assert erasures.last_erasure_of_image("other", "obama", OTHER_IMAGE_ID) == NEVER


@pytest.mark.parametrize("what", KEYS)
async def test_a_face_falls_under_its_person_and_directory(erasures: Erasures, what: str) -> None:
    erasures.add(KEYS[what], MARK)
    assert erasures.last_erasure_of_face("acme", "obama", FACE_ID) == (NEVER if what == "image" else MARK)
    assert erasures.last_erasure_of_face("acme", "biden", learned_face_id(OTHER_IMAGE_ID)) == (
        MARK if what == "directory" else NEVER
    )
    assert erasures.last_erasure_of_face("other", "obama", learned_face_id(OTHER_IMAGE_ID)) == NEVER


def test_names_that_look_alike_when_joined_have_different_keys() -> None:
    keys = [
        person_erasure_key("a", "b"),
        person_erasure_key("a,b", ""),
        person_erasure_key("", "a,b"),
        person_erasure_key('a", "b', ""),
    ]
    keys += [
        directory_erasure_key("a"),
        face_erasure_key("a"),
        image_erasure_key("a"),
        person_erasure_key("person", "a"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)


async def test_erasures_of_another_process_are_known_after_a_refresh(log: SqliteLog, erasures: Erasures) -> None:
    await log.append([record(KEYS["person"], MARK)])
    assert erasures.empty
    await erasures.refresh()
    assert erasures.last_erasure_of_face("acme", "obama", FACE_ID) == MARK


async def test_the_latest_erasure_counts_in_whatever_order_they_are_read(log: SqliteLog, erasures: Erasures) -> None:
    erasures.add(KEYS["person"], ErasurePosition(2_000, 9))  # carried out here, before the records come round
    await log.append([record(KEYS["person"], MARK), record(KEYS["person"], ErasurePosition(2_000, 9))])
    await erasures.refresh()
    assert erasures.last_erasure_of_face("acme", "obama", FACE_ID) == ErasurePosition(2_000, 9)
    erasures.add(KEYS["directory"], MARK)
    assert erasures.last_erasure_of_face("acme", "obama", FACE_ID) == ErasurePosition(2_000, 9)


@pytest.mark.parametrize("second", ["person", "directory"])
async def test_a_clock_that_was_set_back_between_two_erasures_loses_neither(erasures: Erasures, second: str) -> None:
    erasures.add(KEYS["person"], ErasurePosition(time_ms=2_000, offset=7))
    erasures.add(KEYS[second], ErasurePosition(time_ms=1_000, offset=9))
    assert erasures.last_erasure_of_face("acme", "obama", FACE_ID) == ErasurePosition(2_000, 9)
    assert erasures.last_erasure_of_image("acme", "obama", IMAGE_ID) == ErasurePosition(2_000, 9)


async def test_an_unreadable_record_is_ignored(log: SqliteLog, erasures: Erasures) -> None:
    bad = [NewRecord(ERASURES, KEYS["person"], value) for value in (b"", b"{}", b"\xff", b'{"at": -1}')]
    await log.append([*bad, record(KEYS["face"], MARK)])
    await erasures.refresh()
    assert erasures.last_erasure_of_face("acme", "obama", learned_face_id(OTHER_IMAGE_ID)) == NEVER
    assert erasures.last_erasure_of_face("acme", "obama", FACE_ID) == MARK


def test_object_keys_of_image_has_all_keys_of_an_image() -> None:
    kept = [
        original_key(IMAGE_ID, "learn"),
        original_key(IMAGE_ID, "recognize"),
        sheet_key(IMAGE_ID),
        crop_key(FACE_ID),
    ]
    assert sorted(object_keys_of_image(IMAGE_ID)) == sorted(kept)
