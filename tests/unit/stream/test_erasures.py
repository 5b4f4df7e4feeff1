"""What was erased, as every process knows it, and what becomes of an image that came before."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.files.objects import FileObjects
from backends.log import NewRecord
from backends.sqlite.log import SqliteLog
from schemas.erasures import erased_directory, erased_face, erased_image, erased_person
from schemas.errors import Erased
from schemas.ids import crop_key, face_id_learned, original_key, sheet_key
from schemas.records import Erasure, ImageReceived
from stream.erase.marks import NEVER, Erasures, Mark, drop_if_erased, objects_of
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


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[FileObjects]:
    store = FileObjects(tmp_path / "objects")
    yield store
    await store.close()


def record(key: str, mark: Mark) -> NewRecord:
    return NewRecord(ERASURES, key, Erasure(at=mark.at, partition=3, offset=mark.offset).encode())


def learn(image_id: str = IMAGE_ID, **members: str) -> ImageReceived:
    named = {"directory": "acme", "person": "obama"} | members
    return ImageReceived(image_id=image_id, purpose="learn", media_type="image/png", sha256="0" * 64, **named)


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
    assert erasures.of_image("acme", "obama", IMAGE_ID) == MARK
    assert erasures.of_image("acme", None, IMAGE_ID) == (NEVER if what == "person" else MARK)
    assert erasures.of_image(None, None, IMAGE_ID) == (MARK if what in ("image", "face") else NEVER)
    assert erasures.of_image("acme", "biden", OTHER_IMAGE_ID) == (MARK if what == "directory" else NEVER)
    assert erasures.of_image("other", "obama", OTHER_IMAGE_ID) == NEVER


@pytest.mark.parametrize("what", KEYS)
async def test_a_face_falls_under_its_person_and_directory(erasures: Erasures, what: str) -> None:
    erasures.add(KEYS[what], MARK)
    assert erasures.of_person("acme", "obama", FACE_ID) == (NEVER if what == "image" else MARK)
    assert erasures.of_person("acme", "biden", face_id_learned(OTHER_IMAGE_ID)) == (
        MARK if what == "directory" else NEVER
    )
    assert erasures.of_person("other", "obama", face_id_learned(OTHER_IMAGE_ID)) == NEVER


def test_names_that_look_alike_put_together_are_told_apart() -> None:
    keys = [erased_person("a", "b"), erased_person("a,b", ""), erased_person("", "a,b"), erased_person('a", "b', "")]
    keys += [erased_directory("a"), erased_face("a"), erased_image("a"), erased_person("person", "a")]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)


async def test_what_another_process_has_erased_is_known_after_a_refresh(log: SqliteLog, erasures: Erasures) -> None:
    await log.append([record(KEYS["person"], MARK)])
    assert erasures.empty
    await erasures.refresh()
    assert erasures.of_person("acme", "obama", FACE_ID) == MARK


async def test_the_last_erasure_counts_whatever_order_they_are_heard_in(log: SqliteLog, erasures: Erasures) -> None:
    erasures.add(KEYS["person"], Mark(2_000, 9))  # carried out here, before the records come round
    await log.append([record(KEYS["person"], MARK), record(KEYS["person"], Mark(2_000, 9))])
    await erasures.refresh()
    assert erasures.of_person("acme", "obama", FACE_ID) == Mark(2_000, 9)
    erasures.add(KEYS["directory"], MARK)
    assert erasures.of_person("acme", "obama", FACE_ID) == Mark(2_000, 9)


@pytest.mark.parametrize("second", ["person", "directory"])
async def test_a_clock_that_was_set_back_between_two_erasures_loses_neither(erasures: Erasures, second: str) -> None:
    erasures.add(KEYS["person"], Mark(at=2_000, offset=7))
    erasures.add(KEYS[second], Mark(at=1_000, offset=9))
    assert erasures.of_person("acme", "obama", FACE_ID) == Mark(2_000, 9)
    assert erasures.of_image("acme", "obama", IMAGE_ID) == Mark(2_000, 9)


async def test_a_record_that_cannot_be_read_erases_nothing_and_stops_nothing(
    log: SqliteLog, erasures: Erasures
) -> None:
    bad = [NewRecord(ERASURES, KEYS["person"], value) for value in (b"", b"{}", b"\xff", b'{"at": -1}')]
    await log.append([*bad, record(KEYS["face"], MARK)])
    await erasures.refresh()
    assert erasures.of_person("acme", "obama", face_id_learned(OTHER_IMAGE_ID)) == NEVER
    assert erasures.of_person("acme", "obama", FACE_ID) == MARK


# An image that meets its erasure.


def test_all_that_may_be_kept_of_an_image_is_known() -> None:
    kept = [
        original_key(IMAGE_ID, "learn"),
        original_key(IMAGE_ID, "recognize"),
        sheet_key(IMAGE_ID),
        crop_key(FACE_ID),
    ]
    assert sorted(objects_of(IMAGE_ID)) == sorted(kept)


@pytest.mark.parametrize("what", KEYS)
@pytest.mark.parametrize(("received_at", "dropped"), [(MARK.at - 1, True), (MARK.at, True), (MARK.at + 1, False)])
async def test_an_image_that_came_until_then_goes_and_a_later_one_stays(
    erasures: Erasures, objects: FileObjects, what: str, received_at: int, dropped: bool
) -> None:
    for image_id in (IMAGE_ID, OTHER_IMAGE_ID):
        for key in objects_of(image_id):
            await objects.put(key, b"picture")
    erasures.add(KEYS[what], MARK)
    if dropped:
        with pytest.raises(Erased) as raised:
            await drop_if_erased(learn(), received_at, erasures, objects)
        assert (raised.value.status, raised.value.code, raised.value.retriable) == (409, "erased", False)
        assert "obama" not in raised.value.message
    else:
        await drop_if_erased(learn(), received_at, erasures, objects)
    left = {it.key async for it in objects.list()}
    assert left == set(objects_of(OTHER_IMAGE_ID)) | (set() if dropped else set(objects_of(IMAGE_ID)))


async def test_another_persons_image_stays(erasures: Erasures, objects: FileObjects) -> None:
    for what in ("image", "face", "person"):
        erasures.add(KEYS[what], MARK)
    received = learn(OTHER_IMAGE_ID, person="biden")
    await objects.put(received.object_key, b"picture")
    await drop_if_erased(received, 0, erasures, objects)
    assert (await objects.get(received.object_key)).data == b"picture"


async def test_an_image_is_dropped_also_where_nothing_is_left_of_it(erasures: Erasures, objects: FileObjects) -> None:
    erasures.add(KEYS["image"], MARK)
    for _ in range(2):
        with pytest.raises(Erased):
            await drop_if_erased(learn(), 0, erasures, objects)
