"""The erasures that every process knows."""

from collections.abc import AsyncIterator

import pytest

from backends.log import NewRecord
from backends.sqlite.log import SqliteLog
from schemas.erasures import directory_erasure_key, face_erasure_key, image_erasure_key, person_erasure_key
from schemas.ids import crop_key, learned_face_id, original_key, sheet_key
from schemas.origins import Origin
from stream.erase.erasures import NO_OFFSET, Erasures, identity_record, last_offset, object_keys_of_image
from stream.topics import BUCKET_EVENTS, ERASURES, IMAGES_RECEIVED_BULK
from tests.records import cut_at, erasure, erasure_keys, erasure_record, image_id, image_received, origin_at

IMAGE_ID, OTHER_IMAGE_ID = image_id("image"), image_id("other")
FACE_ID = learned_face_id(IMAGE_ID)
KEYS = erasure_keys("image")
OFFSET, BEFORE, VERSION = 7, 100, 1_000
ERASURE = erasure(at=VERSION, offset=OFFSET, before=BEFORE)
PORTRAIT = image_received("image", "learn", origin=origin_at(BEFORE - 1))


@pytest.fixture
async def erasures(log: SqliteLog) -> AsyncIterator[Erasures]:
    erasures = Erasures(log)
    await erasures.start()
    yield erasures
    await erasures.close()


@pytest.mark.parametrize("what", KEYS)
async def test_an_image_falls_under_erasures_of_its_face_person_and_directory(erasures: Erasures, what: str) -> None:
    assert erasures.empty
    erasures.add(KEYS[what], ERASURE)
    assert not erasures.empty
    of_images = {
        ("acme", "obama", IMAGE_ID): True,
        ("acme", None, IMAGE_ID): what != "person",
        (None, None, IMAGE_ID): what in ("image", "face"),
        ("acme", "biden", OTHER_IMAGE_ID): what == "directory",
        ("other", "obama", OTHER_IMAGE_ID): False,
    }
    for names, falls in of_images.items():
        assert last_offset(erasures.of_image(*names)) == (OFFSET if falls else NO_OFFSET)
        assert erasures.cover_origin(*names, origin_at(BEFORE - 1)) == falls


@pytest.mark.parametrize("what", KEYS)
async def test_a_face_falls_under_its_person_and_directory(erasures: Erasures, what: str) -> None:
    erasures.add(KEYS[what], ERASURE)
    other = learned_face_id(OTHER_IMAGE_ID)
    assert last_offset(erasures.of_face("acme", "obama", FACE_ID)) == (NO_OFFSET if what == "image" else OFFSET)
    assert last_offset(erasures.of_face("acme", "biden", other)) == (OFFSET if what == "directory" else NO_OFFSET)
    assert last_offset(erasures.of_face("other", "obama", other)) == NO_OFFSET


@pytest.mark.parametrize(
    ("origin", "covered"),
    [
        (origin_at(BEFORE - 1), True),
        (origin_at(BEFORE), False),
        (origin_at(0, IMAGES_RECEIVED_BULK, 63), True),
        (origin_at(BEFORE, BUCKET_EVENTS, 63), False),
        (origin_at(9_999, "another topic"), True),  # of a producer that does not know what it is
        (origin_at(0, partition=64), False),
        (None, True),  # a record of an older version
    ],
)
async def test_an_image_is_erased_if_its_first_record_came_before_the_cut(
    erasures: Erasures, origin: Origin | None, covered: bool
) -> None:
    erasures.add(KEYS["person"], ERASURE)
    assert erasures.cover_image(image_received("image", "learn", origin=origin)) == covered


async def test_an_erasure_without_a_cut_covers_no_image_in_flight(erasures: Erasures) -> None:
    """It was carried out so long ago that nothing from before it is in a topic, or by an older version."""
    erasures.add(KEYS["person"], ERASURE.model_copy(update={"cut": None}))
    assert not erasures.cover_image(PORTRAIT)
    assert not erasures.cover_image(PORTRAIT.model_copy(update={"origin": None}))
    assert erasures.cover_row("acme", "obama", IMAGE_ID, VERSION)


async def test_a_record_of_the_directorys_partition_before_the_command_is_erased(erasures: Erasures) -> None:
    later = image_received("image", "learn", origin=origin_at(BEFORE))
    erasures.add(KEYS["person"], ERASURE)
    assert not erasures.cover_image(later)
    assert erasures.cover_image(later, OFFSET - 1)
    assert not erasures.cover_image(later, OFFSET + 1)
    assert erasures.cover_image(PORTRAIT, OFFSET + 1)


async def test_a_row_is_erased_up_to_a_version_and_the_next_one_is_kept(erasures: Erasures) -> None:
    assert erasures.next_version("acme", "obama", IMAGE_ID) == 0
    erasures.add(KEYS["person"], ERASURE)
    erasures.add(KEYS["directory"], erasure(at=VERSION + 5, offset=OFFSET + 1))
    assert erasures.cover_row("acme", "obama", IMAGE_ID, VERSION + 5)
    assert not erasures.cover_row("acme", "obama", IMAGE_ID, VERSION + 6)
    assert erasures.next_version("acme", "obama", IMAGE_ID) == VERSION + 6
    assert erasures.next_version("acme", "biden", OTHER_IMAGE_ID) == VERSION + 6
    assert erasures.next_version("other", "obama", OTHER_IMAGE_ID) == 0


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
    seen = erasures.seen
    await log.append([erasure_record(KEYS["person"], offset=OFFSET)])
    assert erasures.empty
    assert erasures.seen == seen
    await erasures.refresh()
    (known,) = erasures.of_face("acme", "obama", FACE_ID)
    assert (known.offset, known.first_record) == (OFFSET, seen)
    assert erasures.seen == seen + 1


async def test_the_first_record_about_an_erasure_stays_known(log: SqliteLog, erasures: Erasures) -> None:
    """Later records about it replace the first one: compaction leaves only the last."""
    seen = erasures.seen
    await log.append([erasure_record(KEYS["person"], offset=OFFSET)] * 2)
    await erasures.refresh()
    again = erasure(offset=OFFSET).model_copy(update={"first_record": seen})
    await log.append([NewRecord(ERASURES, KEYS["person"], again.encode())])
    await erasures.refresh()
    other = Erasures(log)
    other.add(KEYS["person"], again, seen + 2)  # as a process reads it that starts after compaction
    for it in (erasures, other):
        known = it.get(KEYS["person"])
        assert known is not None
        assert known.first_record == seen
    await log.append([erasure_record(KEYS["person"], offset=OFFSET + 1)])
    await erasures.refresh()
    known = erasures.get(KEYS["person"])
    assert known is not None
    assert known.first_record == seen + 3


@pytest.mark.parametrize("later_first", [False, True])
async def test_of_two_erasures_the_later_one_counts_in_whatever_order_they_are_read(
    log: SqliteLog, erasures: Erasures, later_first: bool
) -> None:
    """A clock may have been set back between them: the later one has the smaller version then."""
    earlier = erasure(at=2_000, offset=7, before=100)
    later = erasure(at=1_000, offset=9, before=200).model_copy(update={"done": False})
    for value in (later, earlier) if later_first else (earlier, later):
        erasures.add(KEYS["person"], value)
    known = erasures.get(KEYS["person"])
    assert known is not None
    assert (known.offset, known.version, known.erasure.done, known.erasure.cut) == (9, 2_000, False, cut_at(200))


async def test_offsets_of_a_former_log_mean_nothing_in_this_one(log: SqliteLog, erasures: Erasures) -> None:
    """The log was restored from a copy, and its offsets have begun anew. Rows keep their versions."""
    await log.append([identity_record()])
    await erasures.refresh()
    former = erasures.log_id
    await log.append([erasure_record(KEYS["person"], at=VERSION, offset=OFFSET, before=BEFORE, log=former)])
    await erasures.refresh()
    assert erasures.cover_image(PORTRAIT)
    await log.append([identity_record()])
    await erasures.refresh()
    assert erasures.log_id != former
    late = erasure_record(KEYS["directory"], at=VERSION + 1, offset=OFFSET, before=BEFORE, log=former)
    await log.append([late])
    await erasures.refresh()
    assert not erasures.cover_image(PORTRAIT, offset=0)
    assert last_offset(erasures.of_image("acme", "obama", IMAGE_ID)) == NO_OFFSET
    assert erasures.cover_row("acme", "obama", IMAGE_ID, VERSION + 1)
    await log.append([erasure_record(KEYS["image"], before=BEFORE, log=erasures.log_id)])
    await erasures.refresh()
    assert erasures.cover_image(PORTRAIT)


async def test_an_unreadable_record_is_ignored(log: SqliteLog, erasures: Erasures) -> None:
    bad = [NewRecord(ERASURES, KEYS["person"], value) for value in (b"", b"{}", b"\xff", b'{"at": -1}')]
    await log.append([*bad, NewRecord(ERASURES, "log", b"{}"), erasure_record(KEYS["face"], offset=OFFSET)])
    await erasures.refresh()
    assert erasures.of_face("acme", "obama", learned_face_id(OTHER_IMAGE_ID)) == []
    assert last_offset(erasures.of_face("acme", "obama", FACE_ID)) == OFFSET


def test_object_keys_of_image_has_all_keys_of_an_image() -> None:
    kept = [
        original_key(IMAGE_ID, "learn"),
        original_key(IMAGE_ID, "recognize"),
        sheet_key(IMAGE_ID),
        crop_key(FACE_ID),
    ]
    assert sorted(object_keys_of_image(IMAGE_ID)) == sorted(kept)
