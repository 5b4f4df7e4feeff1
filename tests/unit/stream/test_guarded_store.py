"""The only way to store data of a person or an image: erased data is deleted, whenever the erasure comes, and the log
is read no more often than necessary.
"""

import asyncio
import sys
import time
import unicodedata
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from backends.files.objects import FileObjects
from backends.log import NewRecord
from backends.sqlite.log import SqliteLog
from backends.sqlite.vectors import SqliteVectors
from backends.vectors import Face, FaceVector
from schemas.erasures import directory_erasure_key, person_erasure_key
from schemas.errors import Erased
from schemas.ids import crop_key, learned_face_id, original_key
from schemas.object_metadata import ObjectMetadata
from schemas.records import ImageReceived, Source
from stream.erase.erasures import Erasures, object_keys_of_image
from stream.erase.guarded_store import AnswerToStore, GuardedStore, changelog_tombstones
from stream.topics import FACES_LEARNED, IMAGES_RECEIVED, RESULTS, TOPICS
from tests.records import (
    answer_with_name,
    erasure,
    erasure_keys,
    erasure_record,
    face_learned,
    image_id,
    image_received,
    origin_at,
)
from tests.unit.stream.dying_store import DIED, ERASED_OFFSET
from tests.unit.stream.stages import answered

IMAGE_ID, OTHER_IMAGE_ID = image_id("image"), image_id("other")
FACE_ID = learned_face_id(IMAGE_ID)
VERSION, BEFORE = 1_000, 100
ERASURE = erasure(at=VERSION, before=BEFORE)
KEYS = erasure_keys("image")
ORIGINS = [(BEFORE - 1, True), (BEFORE, False)]  # the offset of an image's first record; is it erased?


SOURCE = Source(bucket="objects", key="incoming/acme/1.png")


class CountingLog(SqliteLog):
    asked = 0

    async def end_offsets(self, topic: str) -> dict[int, int]:
        self.asked += 1
        return await super().end_offsets(topic)


class Objects(FileObjects):
    """A store in which another process erases `erased_key` during every put."""

    log: SqliteLog
    erased_key: str | None = None

    async def put(
        self, key: str, data: bytes, metadata: Mapping[str, str] | None = None, *, if_absent: bool = False
    ) -> bool:
        if self.erased_key is not None:
            await self.log.append([erasure_record(self.erased_key, at=VERSION, before=BEFORE)])
        return await super().put(key, data, metadata, if_absent=if_absent)

    async def keys(self) -> set[str]:
        return {it.key async for it in self.list()}


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[CountingLog]:
    log = CountingLog(tmp_path / "log.db")
    await log.create_topics(TOPICS)
    yield log
    await log.close()


@pytest.fixture
async def erasures(log: CountingLog) -> AsyncIterator[Erasures]:
    erasures = Erasures(log)
    await erasures.start()
    log.asked = 0
    yield erasures
    await erasures.close()


@pytest.fixture
async def objects(tmp_path: Path, log: CountingLog) -> AsyncIterator[Objects]:
    objects = Objects(tmp_path / "objects")
    objects.log = log
    yield objects
    await objects.close()


@pytest.fixture
async def vectors(tmp_path: Path) -> AsyncIterator[SqliteVectors]:
    vectors = SqliteVectors(tmp_path / "vectors.db")
    yield vectors
    await vectors.close()


@pytest.fixture
def store(objects: Objects, vectors: SqliteVectors, erasures: Erasures) -> GuardedStore:
    return GuardedStore(objects, vectors, erasures)


def portrait(origin: int = BEFORE - 1, **members: str) -> ImageReceived:
    return image_received("image", "learn", origin=origin_at(origin), **members)


PORTRAIT = portrait()
ANSWER = answer_with_name("image", "recognize", offset=ERASED_OFFSET - 1)


def face_vector(name: str, person: str, timestamp: int) -> FaceVector:
    face = Face(person, learned_face_id(image_id(name)), image_id(name), "source", timestamp)
    return FaceVector("acme", "g1", face, np.ones(4, np.float32))


# An image that meets its erasure.


@pytest.mark.parametrize("what", KEYS)
@pytest.mark.parametrize(("origin", "dropped"), ORIGINS)
async def test_an_image_received_before_the_erasure_is_dropped_and_a_later_one_kept(
    store: GuardedStore, erasures: Erasures, objects: Objects, what: str, origin: int, dropped: bool
) -> None:
    for image in (IMAGE_ID, OTHER_IMAGE_ID):
        for key in object_keys_of_image(image):
            await objects.put(key, b"picture")
    erasures.add(KEYS[what], ERASURE)
    if dropped:
        with pytest.raises(Erased) as raised:
            await store.drop_if_erased(portrait(origin))
        assert (raised.value.status, raised.value.code, raised.value.retriable) == (409, "erased", False)
        assert "obama" not in raised.value.message
    else:
        await store.drop_if_erased(portrait(origin))
    left = set(object_keys_of_image(OTHER_IMAGE_ID)) | (set() if dropped else set(object_keys_of_image(IMAGE_ID)))
    assert await objects.keys() == left


async def test_another_persons_image_stays(store: GuardedStore, erasures: Erasures, objects: Objects) -> None:
    for what in ("image", "face", "person"):
        erasures.add(KEYS[what], ERASURE)
    received = image_received("other", "learn", person="biden", origin=origin_at(0))
    await objects.put(received.object_key, b"picture")
    await store.drop_if_erased(received)
    assert (await objects.get(received.object_key)).data == b"picture"


async def test_an_erased_image_is_dropped_even_if_no_object_is_left(store: GuardedStore, erasures: Erasures) -> None:
    erasures.add(KEYS["image"], ERASURE)
    for _ in range(2):
        with pytest.raises(Erased):
            await store.drop_if_erased(PORTRAIT)


async def test_an_erasure_unknown_to_this_process_is_read_from_the_log(
    store: GuardedStore, log: CountingLog, objects: Objects
) -> None:
    await objects.put(PORTRAIT.object_key, b"picture")
    await log.append([erasure_record(KEYS["image"], before=BEFORE)])
    await store.drop_if_erased(PORTRAIT)
    with pytest.raises(Erased):
        await store.drop_if_erased_meanwhile(PORTRAIT)
    assert await objects.keys() == set()


# Pictures.


@pytest.mark.parametrize("what", KEYS)
@pytest.mark.parametrize(("origin", "erased"), ORIGINS)
async def test_an_object_put_during_its_erasure_is_deleted_again(
    store: GuardedStore, objects: Objects, what: str, origin: int, erased: bool
) -> None:
    """All other objects of the image are deleted too, also its source, in whatever Unicode form its name is written."""
    decomposed = unicodedata.normalize("NFD", "acmé")
    sources = {"incoming/acmé/cms/1.png", f"incoming/{decomposed}/cms/1.png"}
    others = {original_key(OTHER_IMAGE_ID, "learn"), "incoming/acmé/cms/2.png"}
    kept = {original_key(IMAGE_ID, "learn"), crop_key(FACE_ID)}
    received = portrait(origin, directory="acmé")
    original = ObjectMetadata("acmé", "obama", source="cms/1.png")
    for key in kept | sources | others:
        await objects.put(key, b"picture", original.encode() if key in kept else None)
    objects.erased_key = KEYS[what] if what in ("image", "face") else None
    if objects.erased_key is None:
        objects.erased_key = person_erasure_key("acmé", "obama") if what == "person" else directory_erasure_key("acmé")
    metadata = store.metadata(received, 1_000, image_id=IMAGE_ID)
    if erased:
        with pytest.raises(Erased):
            await store.put(received, crop_key(FACE_ID), b"crop", metadata)
    else:
        assert await store.put(received, crop_key(FACE_ID), b"crop", metadata)
    assert await objects.keys() == others | (set() if erased else kept | sources)


async def test_an_object_put_before_a_crash_is_deleted_too(store: GuardedStore, objects: Objects) -> None:
    """A worker put the object and crashed before it checked the erasures."""
    metadata = store.metadata(PORTRAIT, 1_000)
    await objects.put(crop_key(FACE_ID), b"crop", metadata.encode())
    assert not await store.put(PORTRAIT, crop_key(FACE_ID), b"other", metadata, if_absent=True)
    objects.erased_key = KEYS["person"]
    with pytest.raises(Erased):
        await store.put(PORTRAIT, crop_key(FACE_ID), b"other", metadata, if_absent=True)
    assert await objects.keys() == set()


@pytest.mark.parametrize(("version", "erased"), [(VERSION, True), (VERSION + 1, False)])
async def test_a_picture_of_a_row_goes_with_the_row(
    store: GuardedStore, objects: Objects, version: int, erased: bool
) -> None:
    metadata = store.metadata(PORTRAIT, 1_000, image_id=IMAGE_ID)
    objects.erased_key = KEYS["person"]
    if erased:
        with pytest.raises(Erased):
            await store.put_of_row(IMAGE_ID, version, crop_key(FACE_ID), b"crop", metadata)
    else:
        await store.put_of_row(IMAGE_ID, version, crop_key(FACE_ID), b"crop", metadata)
    assert await objects.keys() == (set() if erased else {crop_key(FACE_ID)})


async def test_a_missing_upload_was_erased_if_its_directory_was_erased_meanwhile(
    store: GuardedStore, log: CountingLog, objects: Objects
) -> None:
    """The eraser has found the picture of an upload whose event came only afterwards."""
    later = portrait(BEFORE)
    await store.drop_if_deleted(later)
    await log.append([erasure_record(KEYS["directory"], before=BEFORE)])
    await store.drop_if_deleted(portrait(BEFORE, directory="other"))
    await store.drop_if_deleted(image_received("image", "learn", origin=later.origin, source=SOURCE))
    with pytest.raises(Erased):
        await store.drop_if_deleted(later)


async def test_an_upload_tells_which_erasures_were_known(store: GuardedStore, log: CountingLog) -> None:
    before = store.metadata(PORTRAIT, 1_000).erasures_seen
    await log.append([erasure_record(KEYS["person"])])
    await store.drop_if_erased_meanwhile(portrait(2_000))
    after = store.metadata(PORTRAIT, 1_000).erasures_seen
    assert before is not None
    assert after == before + 1


# Faces, the changelog, and answers.


async def test_only_faces_that_are_not_erased_are_stored(
    store: GuardedStore, vectors: SqliteVectors, erasures: Erasures
) -> None:
    erasures.add(KEYS["person"], ERASURE)
    before, after = face_vector("before", "obama", VERSION), face_vector("after", "obama", VERSION + 1)
    other = face_vector("of another", "biden", VERSION)
    assert await store.put_faces([before, after, other]) == [after, other]
    assert {it.person: it.faces for it in await vectors.persons("acme", "g1")} == {"obama": 1, "biden": 1}
    assert await vectors.faces("acme", "g1", "obama") == [after.face]
    assert await store.put_faces([before]) == []


async def test_only_faces_that_are_not_erased_are_in_the_changelog(store: GuardedStore, erasures: Erasures) -> None:
    erasures.add(KEYS["person"], ERASURE)
    before, after = face_learned("image", learned_at=VERSION), face_learned("other", learned_at=VERSION + 1)
    assert store.changelog_records([before, after]) == [
        NewRecord("faces.learned", OTHER_IMAGE_ID, after.encode(), "acme")
    ]
    assert changelog_tombstones([IMAGE_ID], "acme") == [NewRecord(FACES_LEARNED.name, IMAGE_ID, None, "acme")]


async def test_the_log_is_read_once_after_each_put_that_needs_it_and_never_else(
    store: GuardedStore, log: CountingLog
) -> None:
    """Each time is a round trip that a request waits for."""
    metadata = ObjectMetadata("acme", "obama", received_at=VERSION)
    await store.drop_if_erased(PORTRAIT)
    await store.put_upload(PORTRAIT.object_key, b"picture", metadata, if_absent=False)
    await store.put_faces([face_vector("portrait", "obama", VERSION)])
    store.changelog_records([face_learned(learned_at=VERSION)])
    assert log.asked == 0
    await store.put(PORTRAIT, crop_key(FACE_ID), b"crop", metadata)
    assert log.asked == 1
    await store.put_answers([AnswerToStore(ANSWER, ANSWER.encode().decode(), time.time() + 60)])
    assert log.asked == 2


# A process that dies between the put and the check of the erasures.


async def run_child(folder: Path, what: str) -> int:
    child = Path(__file__).with_name("dying_store.py")
    environment = {"PYTHONPATH": str(Path(__file__).parents[3])}
    process = await asyncio.create_subprocess_exec(sys.executable, child, folder, what, env=environment)
    return await asyncio.wait_for(process.wait(), 60)


@pytest.mark.parametrize("what", ["crop", "copy"])
async def test_a_picture_put_before_a_crash_is_deleted_when_its_event_is_repeated(
    log: CountingLog, objects: Objects, tmp_path: Path, what: str
) -> None:
    source = Source(bucket="objects", key="incoming/acme/1.png") if what == "copy" else None
    received = image_received("image", "learn", source=source)
    await objects.put(source.key if source is not None else received.object_key, b"\x89PNG\r\n\x1a\n")
    await log.append([NewRecord(IMAGES_RECEIVED, received.image_id, received.encode())])
    assert await run_child(tmp_path, what) == DIED
    assert {"crop": crop_key(FACE_ID), "copy": received.object_key}[what] in await objects.keys()
    assert await answered(log) == {}
    assert await run_child(tmp_path, what) == 0
    assert await objects.keys() == set()
    assert await answered(log) == {IMAGE_ID: 409}


async def test_an_answer_stored_before_a_crash_loses_the_name_when_it_is_repeated(
    log: CountingLog, vectors: SqliteVectors, tmp_path: Path
) -> None:
    await log.append([NewRecord(RESULTS, IMAGE_ID, ANSWER.encode())])
    assert await run_child(tmp_path, "answer") == DIED
    stored = await vectors.answer(IMAGE_ID)
    assert stored is not None
    assert "obama" in stored.value
    assert await run_child(tmp_path, "answer") == 0
    stored = await vectors.answer(IMAGE_ID)
    assert stored is not None
    assert "obama" not in stored.value
