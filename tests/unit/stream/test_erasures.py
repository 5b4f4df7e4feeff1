"""The erasures that every process knows."""

import uuid
from collections.abc import AsyncIterator

import pytest

from backends.log import NewRecord
from backends.sqlite.log import SqliteLog
from schemas.erasures import erased_directory, erased_face, erased_image, erased_person
from schemas.ids import crop_key, face_id_learned, original_key, sheet_key
from schemas.records import Erasure
from stream.erase.marks import NEVER, Erasures, Mark, object_keys_of_image
from stream.topics import ERASURES

IMAGE_ID, OTHER_IMAGE_ID = (str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in ("image", "other"))
FACE_ID = face_id_learned(IMAGE_ID)
MARK = Mark(at=1_000, offset=7)


@pytest.fixture
async def erasures(log: SqliteLog) -> AsyncIterator[Erasures]:
    erasures = Erasures(log)
    await erasures.start()
    yield erasures
    await erasures.close()


def record(key: str, mark: Mark) -> NewRecord:
    return NewRecord(ERASURES, key, Erasure(at=mark.at, partition=3, offset=mark.offset).encode())


KEYS = {
    "image": erased_image(IMAGE_ID),
    "face": erased_face(FACE_ID),
    "person": erased_person("acme", "obama"),
    "directory": erased_directory("acme"),
}


@pytest.mark.parametrize("what", KEYS)
async def test_an_image_falls_under_all_that_it_belongs_to(erasures: Erasures, what: str) -> None:
    assert erasures.empty
    erasures.add(KEYS[what], MARK)
    assert not erasures.empty
    assert erasures.mark_of_image("acme", "obama", IMAGE_ID) == MARK
    assert erasures.mark_of_image("acme", None, IMAGE_ID) == (NEVER if what == "person" else MARK)
    assert erasures.mark_of_image(None, None, IMAGE_ID) == (MARK if what in ("image", "face") else NEVER)
    assert erasures.mark_of_image("acme", "biden", OTHER_IMAGE_ID) == (MARK if what == "directory" else NEVER)
    assert erasures.mark_of_image("other", "obama", OTHER_IMAGE_ID) == NEVER


@pytest.mark.parametrize("what", KEYS)
async def test_a_face_falls_under_its_person_and_directory(erasures: Erasures, what: str) -> None:
    erasures.add(KEYS[what], MARK)
    assert erasures.mark_of_face("acme", "obama", FACE_ID) == (NEVER if what == "image" else MARK)
    assert erasures.mark_of_face("acme", "biden", face_id_learned(OTHER_IMAGE_ID)) == (
        MARK if what == "directory" else NEVER
    )
    assert erasures.mark_of_face("other", "obama", face_id_learned(OTHER_IMAGE_ID)) == NEVER


def test_names_that_look_alike_put_together_are_told_apart() -> None:
    keys = [erased_person("a", "b"), erased_person("a,b", ""), erased_person("", "a,b"), erased_person('a", "b', "")]
    keys += [erased_directory("a"), erased_face("a"), erased_image("a"), erased_person("person", "a")]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)


async def test_what_another_process_has_erased_is_known_after_a_refresh(log: SqliteLog, erasures: Erasures) -> None:
    await log.append([record(KEYS["person"], MARK)])
    assert erasures.empty
    await erasures.refresh()
    assert erasures.mark_of_face("acme", "obama", FACE_ID) == MARK


async def test_the_last_erasure_counts_whatever_order_they_are_heard_in(log: SqliteLog, erasures: Erasures) -> None:
    erasures.add(KEYS["person"], Mark(2_000, 9))  # carried out here, before the records come round
    await log.append([record(KEYS["person"], MARK), record(KEYS["person"], Mark(2_000, 9))])
    await erasures.refresh()
    assert erasures.mark_of_face("acme", "obama", FACE_ID) == Mark(2_000, 9)
    erasures.add(KEYS["directory"], MARK)
    assert erasures.mark_of_face("acme", "obama", FACE_ID) == Mark(2_000, 9)


@pytest.mark.parametrize("second", ["person", "directory"])
async def test_a_clock_that_was_set_back_between_two_erasures_loses_neither(erasures: Erasures, second: str) -> None:
    erasures.add(KEYS["person"], Mark(at=2_000, offset=7))
    erasures.add(KEYS[second], Mark(at=1_000, offset=9))
    assert erasures.mark_of_face("acme", "obama", FACE_ID) == Mark(2_000, 9)
    assert erasures.mark_of_image("acme", "obama", IMAGE_ID) == Mark(2_000, 9)


async def test_a_record_that_cannot_be_read_erases_nothing_and_stops_nothing(
    log: SqliteLog, erasures: Erasures
) -> None:
    bad = [NewRecord(ERASURES, KEYS["person"], value) for value in (b"", b"{}", b"\xff", b'{"at": -1}')]
    await log.append([*bad, record(KEYS["face"], MARK)])
    await erasures.refresh()
    assert erasures.mark_of_face("acme", "obama", face_id_learned(OTHER_IMAGE_ID)) == NEVER
    assert erasures.mark_of_face("acme", "obama", FACE_ID) == MARK


def test_all_that_may_be_kept_of_an_image_is_known() -> None:
    kept = [
        original_key(IMAGE_ID, "learn"),
        original_key(IMAGE_ID, "recognize"),
        sheet_key(IMAGE_ID),
        crop_key(FACE_ID),
    ]
    assert sorted(object_keys_of_image(IMAGE_ID)) == sorted(kept)
