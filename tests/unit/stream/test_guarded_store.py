"""The only way to store data of a person or an image: erased data is deleted, whenever the erasure comes, and the log
is read no more often than necessary.
"""

import asyncio
import sys
import time
import unicodedata
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.files.objects import FileObjects
from backends.log import NewRecord
from backends.sqlite.log import SqliteLog
from backends.sqlite.vectors import SqliteVectors
from backends.vectors import Face, FaceVector
from schemas.erasures import directory_erasure_key, face_erasure_key, image_erasure_key, person_erasure_key
from schemas.errors import Erased
from schemas.faces import Crop
from schemas.ids import crop_key, learned_face_id, original_key
from schemas.object_metadata import ObjectMetadata
from schemas.records import Answer, Erasure, FaceLearned, ImageReceived, Source
from stream.erase.erasures import ErasurePosition, Erasures, object_keys_of_image
from stream.erase.guarded_store import AnswerToStore, GuardedStore, changelog_tombstones
from stream.topics import ERASURES, FACES_LEARNED, IMAGES_RECEIVED, RESULTS, TOPICS
from tests import answers
from tests.unit.stream.dying_store import DIED, ERASED_OFFSET
from tests.unit.stream.stages import answered

IMAGE_ID, OTHER_IMAGE_ID = (str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in ("image", "other"))
FACE_ID = learned_face_id(IMAGE_ID)
MARK = ErasurePosition(time_ms=1_000, offset=7)
KEYS = {
    "image": image_erasure_key(IMAGE_ID),
    "face": face_erasure_key(FACE_ID),
    "person": person_erasure_key("acme", "obama"),
    "directory": directory_erasure_key("acme"),
}
TIMES = [
    (MARK.time_ms - 1, True),
    (MARK.time_ms, True),
    (MARK.time_ms + 1, False),
]  # of an image, and whether it is erased


class CountingLog(SqliteLog):
    asked = 0

    async def end_offsets(self, topic: str) -> dict[int, int]:
        self.asked += 1
        return await super().end_offsets(topic)


class Objects(FileObjects):
    """Where something is erased, in another process, while an object is being put."""

    log: SqliteLog
    erased_key: str | None = None

    async def put(
        self, key: str, data: bytes, metadata: Mapping[str, str] | None = None, *, if_absent: bool = False
    ) -> bool:
        if self.erased_key is not None:
            value = Erasure(at=MARK.time_ms, partition=0, offset=MARK.offset).encode()
            await self.log.append([NewRecord(ERASURES, self.erased_key, value)])
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


def learn(image_id: str = IMAGE_ID, **members: Any) -> ImageReceived:
    named = {"directory": "acme", "person": "obama", "media_type": "image/png", "sha256": "0" * 64} | members
    return ImageReceived.model_validate({"image_id": image_id, "purpose": "learn"} | named)


def face_vector(name: str, person: str, timestamp: int) -> FaceVector:
    image_id = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    face = Face(person, learned_face_id(image_id), image_id, "source", timestamp)
    return FaceVector("acme", "g1", face, np.ones(4, np.float32))


def face_learned(image_id: str, learned_at: int) -> FaceLearned:
    face_id = learned_face_id(image_id)
    return FaceLearned(
        directory="acme",
        person="obama",
        face_id=face_id,
        image_id=image_id,
        source="source",
        crop=Crop(object_key=crop_key(face_id), landmarks=[(1.0, 1.0)] * 5),
        detector="centerface",
        learned_at=learned_at,
        generations=["g1"],
    )


def recognized() -> Answer:
    person = answers.recognized_person("obama", answers.candidate("obama", face_id=FACE_ID))
    body = answers.recognized(person, image_id=IMAGE_ID)
    return Answer(
        image_id=IMAGE_ID, purpose="recognize", directory="acme", status=200, body=body, offset=ERASED_OFFSET - 1
    )


# An image that meets its erasure.


@pytest.mark.parametrize("what", KEYS)
@pytest.mark.parametrize(("received_at", "dropped"), TIMES)
async def test_an_image_that_came_until_then_goes_and_a_later_one_stays(
    store: GuardedStore, erasures: Erasures, objects: Objects, what: str, received_at: int, dropped: bool
) -> None:
    for image_id in (IMAGE_ID, OTHER_IMAGE_ID):
        for key in object_keys_of_image(image_id):
            await objects.put(key, b"picture")
    erasures.add(KEYS[what], MARK)
    if dropped:
        with pytest.raises(Erased) as raised:
            await store.drop_if_erased(learn(), received_at)
        assert (raised.value.status, raised.value.code, raised.value.retriable) == (409, "erased", False)
        assert "obama" not in raised.value.message
    else:
        await store.drop_if_erased(learn(), received_at)
    left = set(object_keys_of_image(OTHER_IMAGE_ID)) | (set() if dropped else set(object_keys_of_image(IMAGE_ID)))
    assert await objects.keys() == left


async def test_another_persons_image_stays(store: GuardedStore, erasures: Erasures, objects: Objects) -> None:
    for what in ("image", "face", "person"):
        erasures.add(KEYS[what], MARK)
    received = learn(OTHER_IMAGE_ID, person="biden")
    await objects.put(received.object_key, b"picture")
    await store.drop_if_erased(received, 0)
    assert (await objects.get(received.object_key)).data == b"picture"


async def test_an_image_is_dropped_also_where_nothing_is_left_of_it(store: GuardedStore, erasures: Erasures) -> None:
    erasures.add(KEYS["image"], MARK)
    for _ in range(2):
        with pytest.raises(Erased):
            await store.drop_if_erased(learn(), 0)


async def test_an_erasure_that_this_process_has_not_heard_of_is_asked_for(
    store: GuardedStore, log: CountingLog, objects: Objects
) -> None:
    await objects.put(learn().object_key, b"picture")
    await log.append([NewRecord(ERASURES, KEYS["image"], Erasure(at=MARK.time_ms, partition=0, offset=7).encode())])
    await store.drop_if_erased(learn(), MARK.time_ms)
    with pytest.raises(Erased):
        await store.drop_if_erased_meanwhile(learn(), MARK.time_ms)
    assert await objects.keys() == set()


# Pictures.


@pytest.mark.parametrize("what", KEYS)
@pytest.mark.parametrize(("received_at", "erased"), TIMES)
async def test_what_is_put_while_it_is_erased_is_taken_back(
    store: GuardedStore, objects: Objects, what: str, received_at: int, erased: bool
) -> None:
    """With all that there is of the image by then, its source included, however its name is written."""
    decomposed = unicodedata.normalize("NFD", "acmé")
    sources = {"incoming/acmé/cms/1.png", f"incoming/{decomposed}/cms/1.png"}
    others = {original_key(OTHER_IMAGE_ID, "learn"), "incoming/acmé/cms/2.png"}
    kept = {original_key(IMAGE_ID, "learn"), crop_key(FACE_ID)}
    original = ObjectMetadata("acmé", "obama", received_at=received_at, source="cms/1.png")
    for key in kept | sources | others:
        await objects.put(key, b"picture", original.encode() if key in kept else None)
    objects.erased_key = KEYS[what] if what in ("image", "face") else None
    if objects.erased_key is None:
        objects.erased_key = person_erasure_key("acmé", "obama") if what == "person" else directory_erasure_key("acmé")
    metadata = ObjectMetadata("acmé", "obama", image_id=IMAGE_ID, received_at=received_at)
    if erased:
        with pytest.raises(Erased):
            await store.put(IMAGE_ID, crop_key(FACE_ID), b"crop", metadata)
    else:
        assert await store.put(IMAGE_ID, crop_key(FACE_ID), b"crop", metadata)
    assert await objects.keys() == others | (set() if erased else kept | sources)


async def test_what_was_there_before_is_taken_back_too(store: GuardedStore, objects: Objects) -> None:
    """A worker that crashed has put it, and nobody has checked the erasures since."""
    metadata = ObjectMetadata("acme", "obama", received_at=MARK.time_ms)
    await objects.put(crop_key(FACE_ID), b"crop", metadata.encode())
    assert not await store.put(IMAGE_ID, crop_key(FACE_ID), b"other", metadata, if_absent=True)
    objects.erased_key = KEYS["person"]
    with pytest.raises(Erased):
        await store.put(IMAGE_ID, crop_key(FACE_ID), b"other", metadata, if_absent=True)
    assert await objects.keys() == set()


# Faces, the changelog, and answers.


async def test_only_faces_that_are_not_erased_are_stored(
    store: GuardedStore, vectors: SqliteVectors, erasures: Erasures
) -> None:
    erasures.add(KEYS["person"], MARK)
    before, after = face_vector("before", "obama", MARK.time_ms), face_vector("after", "obama", MARK.time_ms + 1)
    other = face_vector("of another", "biden", MARK.time_ms)
    assert await store.put_faces([before, after, other]) == [after, other]
    assert {it.person: it.faces for it in await vectors.persons("acme", "g1")} == {"obama": 1, "biden": 1}
    assert await vectors.faces("acme", "g1", "obama") == [after.face]
    assert await store.put_faces([before]) == []


async def test_only_faces_that_are_not_erased_are_in_the_changelog(store: GuardedStore, erasures: Erasures) -> None:
    erasures.add(KEYS["person"], MARK)
    before, after = face_learned(IMAGE_ID, MARK.time_ms), face_learned(OTHER_IMAGE_ID, MARK.time_ms + 1)
    assert store.changelog_records([before, after]) == [
        NewRecord("faces.learned", OTHER_IMAGE_ID, after.encode(), "acme")
    ]
    assert changelog_tombstones([IMAGE_ID], "acme") == [NewRecord(FACES_LEARNED.name, IMAGE_ID, None, "acme")]


async def test_the_log_is_asked_once_after_each_put_that_needs_it_and_never_else(
    store: GuardedStore, log: CountingLog
) -> None:
    """Each time is a round trip that a request waits for."""
    metadata = ObjectMetadata("acme", "obama", received_at=MARK.time_ms)
    await store.drop_if_erased(learn(), MARK.time_ms)
    await store.put_upload(learn().object_key, b"picture", metadata, if_absent=False)
    await store.put_faces([face_vector("portrait", "obama", MARK.time_ms)])
    store.changelog_records([face_learned(IMAGE_ID, MARK.time_ms)])
    assert log.asked == 0
    await store.put(IMAGE_ID, crop_key(FACE_ID), b"crop", metadata)
    assert log.asked == 1
    answer = recognized()
    await store.put_answers([AnswerToStore(answer, answer.encode().decode(), time.time() + 60)])
    assert log.asked == 2


# A process that dies between the put and the look.


async def run_child(folder: Path, what: str) -> int:
    child = Path(__file__).with_name("dying_store.py")
    environment = {"PYTHONPATH": str(Path(__file__).parents[3])}
    process = await asyncio.create_subprocess_exec(sys.executable, child, folder, what, env=environment)
    return await asyncio.wait_for(process.wait(), 60)


@pytest.mark.parametrize("what", ["crop", "copy"])
async def test_a_picture_that_was_put_before_the_process_died_is_taken_back_when_its_event_comes_again(
    log: CountingLog, objects: Objects, tmp_path: Path, what: str
) -> None:
    source = Source(bucket="objects", key="incoming/acme/1.png") if what == "copy" else None
    received = learn(source=source)
    await objects.put(source.key if source is not None else received.object_key, b"\x89PNG\r\n\x1a\n")
    await log.append([NewRecord(IMAGES_RECEIVED, received.image_id, received.encode())])
    assert await run_child(tmp_path, what) == DIED
    assert {"crop": crop_key(FACE_ID), "copy": received.object_key}[what] in await objects.keys()
    assert await answered(log) == {}
    assert await run_child(tmp_path, what) == 0
    assert await objects.keys() == set()
    assert await answered(log) == {IMAGE_ID: 409}


async def test_an_answer_that_was_stored_before_the_process_died_loses_the_name_when_it_comes_again(
    log: CountingLog, vectors: SqliteVectors, tmp_path: Path
) -> None:
    await log.append([NewRecord(RESULTS, IMAGE_ID, recognized().encode())])
    assert await run_child(tmp_path, "answer") == DIED
    stored = await vectors.answer(IMAGE_ID)
    assert stored is not None
    assert "obama" in stored.value
    assert await run_child(tmp_path, "answer") == 0
    stored = await vectors.answer(IMAGE_ID)
    assert stored is not None
    assert "obama" not in stored.value
