"""`facestream erase verify` on stores with remaining erased data: it is found in each store, and distinguished from
data that may exist.
"""

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from backends.log import CommittedOffset, EventLog, NewRecord
from backends.vectors import Face, FaceVector, StoredAnswer
from facestream.cli import main
from facestream.commands import erase
from facestream.config import Settings
from facestream.runtime.stores import Stores, create_stores, open_stores
from schemas.bucket_events import BucketNotified
from schemas.erasure_records import Erasure
from schemas.ids import crop_key, learned_face_id, original_key, sheet_key
from schemas.origins import Cut
from schemas.records import (
    Answer,
    EraseRequested,
    FacesDetected,
    FacesReembedded,
    ImageReceived,
    Purpose,
    ReembeddedFace,
)
from stream.catch_up import remaining_lag
from stream.dead_letters import drop, open_letters
from stream.erase.erasures import Erasures, identity_record
from stream.erase.redaction import redact
from stream.generations import generation_record
from stream.topics import (
    BUCKET_EVENTS,
    DEAD_LETTERS,
    ERASURES,
    FACES_DETECTED,
    FACES_EMBEDDED,
    FACES_LEARNED,
    IMAGES_RECEIVED,
    IMAGES_RECEIVED_BULK,
    PARTITIONS,
    RESULTS,
)
from tests.answers import MODELS
from tests.records import (
    answer_with_name,
    dead_letter_of,
    erasure,
    erasure_keys,
    face_learned,
    faces_embedded,
    image_id,
    image_received,
    older_dead_letter_of,
    origin_at,
)
from weights.manifest import manifest

GENERATION = manifest().default_generation
CANDIDATE = "dlib-resnet29"
VERSION = 1_000  # rows up to this one are erased
OFFSET = 100  # of the command in the directory's partition
ALL, NONE = 1_000, 0  # offsets of a cut: what a test appends came before it, or after it
IMAGE_ID = image_id("image")
FACE_ID = learned_face_id(IMAGE_ID)
KEYS = erasure_keys("image")
PORTRAIT = image_received("image", "learn", origin=origin_at(0))
UPLOADED = NewRecord(IMAGES_RECEIVED, IMAGE_ID, image_received("image", "learn").encode())

PURPOSES: tuple[Purpose, ...] = ("learn", "recognize")
Plant = Callable[[Stores], Awaitable[None]]


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    structlog.reset_defaults()


@asynccontextmanager
async def opened(data: Path) -> AsyncIterator[Stores]:
    async with open_stores(Settings(data=data)) as stores:
        await create_stores(stores)
        yield stores


async def erased(
    stores: Stores, what: str = "person", *, before: int = ALL, offset: int = OFFSET, cut: Cut | None = None
) -> Erasure:
    """before: the offset of the cut in every partition, unless `cut` is given."""
    erasures = Erasures(stores.log)
    await erasures.start()
    await erasures.close()
    made = erasure(at=VERSION, offset=offset, before=before, log=erasures.log_id)
    if cut is not None:
        made = made.model_copy(update={"cut": cut})
    await announce(stores, what, made)
    return made


async def announce(stores: Stores, what: str, made: Erasure) -> None:
    await stores.log.append([NewRecord(ERASURES, KEYS[what], made.encode())])


async def known_so_far(stores: Stores) -> str:
    """What the metadata of an object says of the erasures, if it is put now by a process that knows them all."""
    return str((await stores.log.end_offsets(ERASURES))[0])


async def verified(data: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    """The exit code, and the output by store and topic."""
    code = await asyncio.to_thread(main, ["erase", "verify", "--data", str(data)])
    lines = capsys.readouterr().out.splitlines()
    return code, dict(line.split(": ", 1) for line in lines if ": " in line) | {"all": "\n".join(lines)}


def answer_naming_obama(purpose: Purpose, offset: int = OFFSET - 1) -> Answer:
    return answer_with_name("image", purpose, offset=offset)


async def put_vector(
    stores: Stores, version: int = VERSION, *, name: str = "image", person: str = "obama", generation: str = GENERATION
) -> None:
    face = Face(person, learned_face_id(image_id(name)), image_id(name), f"source of {name}", version)
    await stores.vectors.put_faces([FaceVector("acme", generation, face, np.ones(128, np.float32))])


async def put_answer(stores: Stores, answer: Answer) -> None:
    await stores.vectors.put_answers([StoredAnswer(IMAGE_ID, answer.encode().decode(), time.time() + 60)])


async def put_object(stores: Stores, key: str, **metadata: str) -> None:
    """An object as older versions have put it, unless the metadata say otherwise."""
    described = {"directory": "acme", "person": "obama", "image_id": IMAGE_ID, "received": str(time.time())} | metadata
    await stores.objects.put(key, b"picture", described)


async def keys(stores: Stores) -> set[str]:
    return {it.key async for it in stores.objects.list()}


PICTURES = {crop_key(FACE_ID), original_key(IMAGE_ID, "learn")}


LEFT: dict[str, tuple[str, Plant]] = {
    "a vector": ("vectors", put_vector),
    "the answer to a portrait": ("answers", lambda stores: put_answer(stores, answer_naming_obama("learn"))),
    "the answer to a photo": ("answers", lambda stores: put_answer(stores, answer_naming_obama("recognize"))),
    "a crop": ("objects", lambda stores: put_object(stores, crop_key(FACE_ID))),
}


async def test_without_erasures_verify_finds_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with opened(data) as stores:
        for _, plant in LEFT.values():
            await plant(stores)
        await stores.log.append([NewRecord(RESULTS, IMAGE_ID, answer_naming_obama("recognize").encode())])
    code, said = await verified(data, capsys)
    assert_nothing_left((code, said))
    assert {"vectors", "answers", "objects", FACES_EMBEDDED, RESULTS, DEAD_LETTERS} <= said.keys()


@pytest.mark.parametrize("what", ["person", "directory"])
@pytest.mark.parametrize("planted", LEFT)
async def test_verify_finds_erased_data_in_each_store(
    data: Path, capsys: pytest.CaptureFixture[str], planted: str, what: str
) -> None:
    store, plant = LEFT[planted]
    async with opened(data) as stores:
        await erased(stores, what)
        await plant(stores)
    code, said = await verified(data, capsys)
    assert code == 1
    assert {it for it in ("vectors", "answers", "objects") if said[it] != "nothing left"} == {store}
    assert said[store].startswith("1 left: ")
    assert "obama" not in said["all"]


@pytest.mark.parametrize("what", ["image", "face"])
async def test_verify_finds_data_of_an_erased_image_or_face(
    data: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    async with opened(data) as stores:
        await erased(stores, what)
        for _, plant in LEFT.values():
            await plant(stores)
    code, said = await verified(data, capsys)
    assert code == 1
    assert all(said[it].startswith("1 left: ") for it in ("vectors", "answers", "objects"))


async def test_verify_accepts_data_of_a_person_who_was_learned_again(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(data) as stores:
        await erased(stores, before=NONE)
        await put_vector(stores, VERSION + 1)
        await put_answer(stores, answer_naming_obama("learn", offset=OFFSET + 1))
        for key in PICTURES:
            await put_object(stores, key)
        await stores.log.append([UPLOADED])
    assert_nothing_left(await verified(data, capsys))


def assert_nothing_left(done: tuple[int, dict[str, str]]) -> None:
    code, said = done
    assert code == 0
    assert {it for name, it in said.items() if name != "all"} == {"nothing left"}
    assert "pictures" not in said["all"]  # and nothing was deleted


@pytest.mark.parametrize("what", KEYS)
async def test_verify_accepts_a_redacted_answer(data: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    async with opened(data) as stores:
        await erased(stores, what)
        erasures = Erasures(stores.log)
        erasures.add(KEYS[what], erasure(offset=OFFSET))
        for number, purpose in enumerate(PURPOSES):
            left = redact(answer_naming_obama(purpose), erasures)
            await stores.vectors.put_answers([StoredAnswer(f"{number}", left.encode().decode(), time.time() + 60)])
    assert (await verified(data, capsys))[0] == 0


# Pictures.


@pytest.mark.parametrize("knew", [False, True])
@pytest.mark.parametrize("purpose", PURPOSES)
async def test_verify_accepts_a_picture_whose_event_came_after_the_erasure(
    data: Path, capsys: pytest.CaptureFixture[str], purpose: Purpose, knew: bool
) -> None:
    """The picture may have been stored before the directory was erased, and its event appended afterwards."""
    async with opened(data) as stores:
        before = await known_so_far(stores)
        await erased(stores, "directory", before=NONE)
        known = await known_so_far(stores) if knew else before
        await put_object(stores, original_key(IMAGE_ID, purpose), erasures=known)
        await stores.log.append([NewRecord(IMAGES_RECEIVED, IMAGE_ID, image_received("image", purpose).encode())])
    assert_nothing_left(await verified(data, capsys))


@pytest.mark.parametrize("topics", [(IMAGES_RECEIVED, IMAGES_RECEIVED_BULK), (IMAGES_RECEIVED_BULK, IMAGES_RECEIVED)])
async def test_verify_accepts_a_picture_that_was_sent_again_after_the_erasure(
    data: Path, capsys: pytest.CaptureFixture[str], topics: tuple[str, str]
) -> None:
    """topics: of the event from before the erasure, and of the one from after it."""
    erased_in, sent_again_in = topics
    cut = {erased_in: [ALL] * PARTITIONS, sent_again_in: [NONE] * PARTITIONS}
    async with opened(data) as stores:
        await erased(stores, cut=Cut(next_offsets=cut))
        await put_object(stores, original_key(IMAGE_ID, "learn"))
        await stores.log.append([replace(UPLOADED, topic=topic) for topic in topics])
    code, said = await verified(data, capsys)
    assert (code, said["objects"]) == (0, "nothing left")
    assert said[erased_in].startswith("1 records, ")
    assert said[sent_again_in] == "nothing left"


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize(("offset", "is_erased"), [(6, True), (7, False)])
async def test_verify_judges_the_picture_of_a_dead_letter_by_the_origin_of_its_image(
    data: Path, capsys: pytest.CaptureFixture[str], offset: int, is_erased: bool, dropped: bool
) -> None:
    """The image's own record is kept for a shorter time than the dead letter. The picture of one that may still be
    retried is deleted at once.
    """
    key = original_key(IMAGE_ID, "learn")
    async with opened(data) as stores:
        await erased(stores, before=7)
        await put_object(stores, key)
        await stores.log.append([dead_letter_of(image_received("image", "learn", origin=origin_at(offset)))])
        if dropped:
            await drop(stores.log, await open_letters(stores.log))
        code, said = await verified(data, capsys)
        is_left = is_erased and dropped
        assert (code, said["objects"]) == ((1, f"1 left: {key}") if is_left else (0, "nothing left"))
        assert said[DEAD_LETTERS].startswith("1 records, ") == is_erased
        assert await keys(stores) == (set() if is_erased and not dropped else {key})


@pytest.mark.parametrize("generation", [GENERATION, CANDIDATE])
async def test_verify_accepts_pictures_of_a_face_that_was_learned_after_the_erasure_long_ago(
    data: Path, capsys: pytest.CaptureFixture[str], generation: str
) -> None:
    """No topic has its event any more, and an older version has put the pictures."""
    candidate = manifest().generation(CANDIDATE).model_copy(update={"state": "candidate"})
    async with opened(data) as stores:
        await stores.log.append([generation_record(candidate)])
        await erased(stores)
        await put_vector(stores, VERSION + 1, generation=generation)
        for key in PICTURES:
            await put_object(stores, key)
        assert_nothing_left(await verified(data, capsys))
        assert await keys(stores) == PICTURES


@pytest.mark.parametrize(
    "face",
    [
        {"version": VERSION},
        {"version": VERSION + 1, "name": "other"},
        {"version": VERSION + 1, "person": "biden"},
    ],
    ids=["an erased row", "another image", "another person"],
)
async def test_verify_finds_pictures_without_a_face_that_was_learned_after_the_erasure(
    data: Path, capsys: pytest.CaptureFixture[str], face: dict[str, Any]
) -> None:
    async with opened(data) as stores:
        await erased(stores)
        await put_vector(stores, **face)
        for key in PICTURES:
            await put_object(stores, key)
        code, said = await verified(data, capsys)
        assert (code, said["objects"]) == (1, f"1 left: {crop_key(FACE_ID)}")
        assert "1 pictures of uploads that were never acknowledged were deleted" in said["all"]
        assert await keys(stores) == {crop_key(FACE_ID)}


@pytest.mark.parametrize(
    ("what", "age_s"), [("person", -3_600), ("directory", 86_400), ("image", 86_400), ("face", -3_600)]
)
@pytest.mark.parametrize("began", ["before the erasure", "after it", "in an older version"])
async def test_verify_deletes_the_picture_of_an_unacknowledged_upload_that_began_before_the_erasure(
    data: Path, capsys: pytest.CaptureFixture[str], what: str, age_s: float, began: str
) -> None:
    """age_s: according to a clock, which has no effect."""
    key = original_key(IMAGE_ID, "learn")
    described = {"received": str(time.time() - age_s)}
    async with opened(data) as stores:
        if began == "before the erasure":
            described["erasures"] = await known_so_far(stores)
        await erased(stores, what)
        if began == "after it":
            described["erasures"] = await known_so_far(stores)
        await put_object(stores, key, **described)
        code, said = await verified(data, capsys)
        assert (code, said["objects"]) == (0, "nothing left")
        deleted = began != "after it"
        assert ("1 pictures of uploads that were never acknowledged were deleted" in said["all"]) == deleted
        assert await keys(stores) == (set() if deleted else {key})


async def test_verify_deletes_the_picture_of_an_upload_that_did_not_know_the_last_of_two_erasures(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(data) as stores:
        await erased(stores, "person")
        known = await known_so_far(stores)
        await erased(stores, "directory", offset=OFFSET + 1)
        await put_object(stores, original_key(IMAGE_ID, "learn"), erasures=known)
        assert (await verified(data, capsys))[0] == 0
        assert await keys(stores) == set()


@pytest.mark.parametrize("change", [{"kept_until": {FACES_EMBEDDED: [ALL] * PARTITIONS}}, {"cut": None}], ids=list)
async def test_verify_keeps_the_picture_of_a_probe_although_the_record_of_an_earlier_erasure_has_changed(
    data: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object]
) -> None:
    """Housekeeping drops the cuts of old erasures. Probes may be kept for longer than their events."""
    key = original_key(IMAGE_ID, "recognize")
    async with opened(data) as stores:
        made = await erased(stores, "directory")
        await put_object(stores, key, person="", erasures=await known_so_far(stores))
        await announce(stores, "directory", made.model_copy(update=change))
        assert_nothing_left(await verified(data, capsys))
        assert await keys(stores) == {key}


async def test_verify_accepts_pictures_of_an_imported_face_that_has_no_vectors_yet(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its file had vectors of other generations only, so that the changelog alone knows it. It was imported after the
    erasure, by an older version.
    """
    async with opened(data) as stores:
        await erased(stores)
        await stores.log.append([learned(VERSION + 1)])
        for key in PICTURES:
            await put_object(stores, key)
        assert_nothing_left(await verified(data, capsys))
        assert await keys(stores) == PICTURES


async def test_offsets_of_a_former_log_erase_no_image_of_this_one(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log was restored from a copy, and its offsets have begun anew. Rows keep their versions."""
    async with opened(data) as stores:
        await erased(stores)
        await stores.log.append([identity_record()])
        await put_object(stores, original_key(IMAGE_ID, "learn"))
        await put_answer(stores, answer_naming_obama("learn", offset=0))
        await stores.log.append([UPLOADED])
        assert_nothing_left(await verified(data, capsys))
        await put_vector(stores)
        code, said = await verified(data, capsys)
        assert (code, said["vectors"]) == (1, f"1 left: {FACE_ID}")


async def test_verify_finds_the_picture_of_an_accepted_image(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with opened(data) as stores:
        await stores.log.append([UPLOADED])
        await _pass(stores, "processors", IMAGES_RECEIVED)
        await erased(stores)
        known = await known_so_far(stores)  # the workers may know the erasure: the image came before it
        await put_object(stores, original_key(IMAGE_ID, "learn"), erasures=known)
        await put_object(stores, sheet_key(IMAGE_ID), erasures=known)
    code, said = await verified(data, capsys)
    assert (code, said["objects"].split(":")[0]) == (1, "2 left")


async def test_verify_waits_for_images_in_flight(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The case of a portrait that no stage has handled yet: the stage that handles its record will drop it."""
    waits = threading.Event()

    async def counted(log: EventLog, group: str, topic: str, ends: Mapping[int, int]) -> int:
        waits.set()
        return await remaining_lag(log, group, topic, ends)

    monkeypatch.setattr(erase, "remaining_lag", counted)
    monkeypatch.setattr(erase, "STUCK_S", 30.0)
    async with opened(data) as stores:
        await stores.log.append([UPLOADED])
        await erased(stores)
        await put_object(stores, original_key(IMAGE_ID, "learn"))
        verifying = asyncio.create_task(verified(data, capsys))
        assert await asyncio.to_thread(waits.wait, 30)
        await stores.objects.delete([original_key(IMAGE_ID, "learn")])
        await _pass(stores, "processors", IMAGES_RECEIVED)
        code, said = await verifying
    assert (code, said["objects"]) == (0, "nothing left")


async def test_verify_does_not_wait_long_for_records_that_nobody_handles(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase, "STUCK_S", 0.5)
    async with opened(data) as stores:
        await stores.log.append([UPLOADED])
        await erased(stores)
        await put_object(stores, original_key(IMAGE_ID, "learn"))
    code, said = await verified(data, capsys)
    assert (code, said["objects"].split(":")[0]) == (1, "1 left")


async def _pass(stores: Stores, group: str, topic: str) -> None:
    """Commits all that is in the topic."""
    consumer = await stores.log.consumer(group, [topic], member="test")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while not consumer.assignment:
                await consumer.poll(1, 0.1)
    ends = await stores.log.end_offsets(topic)
    await consumer.commit({at: CommittedOffset(ends[at.partition]) for at in consumer.assignment})
    await consumer.close()


# Records of the topics.


def detected(received: ImageReceived) -> NewRecord:
    event = FacesDetected(received=received, received_at=500, faces=[], models=MODELS)
    return NewRecord(FACES_DETECTED, IMAGE_ID, event.encode())


def embedded(received: ImageReceived) -> NewRecord:
    return NewRecord(FACES_EMBEDDED, IMAGE_ID, faces_embedded(received).encode())


def reembedded(version: int) -> NewRecord:
    face = ReembeddedFace(person="obama", face_id=FACE_ID, image_id=IMAGE_ID, source="s", learned_at=version, vector="")
    event = FacesReembedded(directory="acme", generation="x", faces=[face])
    return NewRecord(FACES_EMBEDDED, IMAGE_ID, event.encode())


def learned(version: int) -> NewRecord:
    return NewRecord(FACES_LEARNED.name, IMAGE_ID, face_learned("image", learned_at=version).encode(), "acme")


def answered(offset: int) -> NewRecord:
    return NewRecord(RESULTS, IMAGE_ID, answer_naming_obama("recognize", offset).encode())


NOTIFIED = BucketNotified.model_validate(
    {
        "Records": [
            {
                "eventName": "s3:ObjectCreated:Put",
                "s3": {"bucket": {"name": "faces"}, "object": {"key": "incoming/acme/learn/obama/1.jpg", "eTag": "e"}},
            }
        ]
    }
)
NOTIFICATION = NewRecord(BUCKET_EVENTS, "faces/incoming/acme/learn/obama/1.jpg", NOTIFIED.encode())
COMMAND = EraseRequested(image_id=IMAGE_ID, directory="acme", person="obama")
OLDER = PORTRAIT.model_copy(update={"origin": None})  # of a version that noted no origins
TELLING: dict[str, tuple[NewRecord, float]] = {  # a record about an erased person, and for how many days it is kept
    "a notification": (NOTIFICATION, 7),
    "an upload": (UPLOADED, 7),
    "one of the second lane": (replace(UPLOADED, topic=IMAGES_RECEIVED_BULK), 7),
    "a detected face": (detected(PORTRAIT), 7),
    "one that an older version detected": (detected(OLDER), 7),
    "an embedded face": (embedded(PORTRAIT), 7),
    "one that an older version embedded": (embedded(OLDER), 7),
    "one of a replay": (reembedded(VERSION), 7),
    "the command": (NewRecord(FACES_EMBEDDED, IMAGE_ID, COMMAND.encode()), 7),
    "the changelog": (learned(VERSION), 1 / 24),
    "an answer": (answered(OFFSET - 1), 1),
    "a dead letter": (dead_letter_of(PORTRAIT), 14),
    "one of an older version": (older_dead_letter_of(OLDER), 14),
}


@pytest.mark.parametrize("what", TELLING)
async def test_verify_lists_records_about_erased_data_with_their_end_of_retention(
    data: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    record, days = TELLING[what]
    async with opened(data) as stores:
        await erased(stores)
        await stores.log.append([record])
        if record.topic == FACES_LEARNED.name:  # it was erased in time
            await stores.log.append([NewRecord(FACES_LEARNED.name, IMAGE_ID, None, "acme")])
    code, said = await verified(data, capsys)
    assert code == 0
    others = {name: it for name, it in said.items() if name not in ("all", record.topic)}
    assert set(others.values()) == {"nothing left"}
    count, until = re.fullmatch(r"(\d+) records, gone by (.*) UTC", said[record.topic]).groups()  # type: ignore[union-attr]
    goes = time.mktime(time.strptime(until, "%Y-%m-%d %H:%M")) - time.timezone
    assert count == "1"
    assert goes == pytest.approx(time.time() + days * 86_400, abs=120)


LATER = {
    "a notification": NOTIFICATION,
    "an upload": UPLOADED,
    "one of the second lane": replace(UPLOADED, topic=IMAGES_RECEIVED_BULK),
    "a detected face": detected(PORTRAIT),
    "an embedded face": embedded(PORTRAIT),
    "one of a replay": reembedded(VERSION + 1),
    "the changelog": learned(VERSION + 1),
    "an answer": answered(0),
    "a dead letter": dead_letter_of(PORTRAIT),
    "one of an older version": older_dead_letter_of(OLDER),
}


@pytest.mark.parametrize("what", LATER)
async def test_verify_lists_no_records_that_came_after_the_erasure(
    data: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    async with opened(data) as stores:
        await erased(stores, before=NONE, offset=0)
        await stores.log.append([LATER[what]])
    assert_nothing_left(await verified(data, capsys))


async def test_verify_lists_an_embedded_face_from_before_the_command(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its image came after the cut, which is made before the command is appended."""
    async with opened(data) as stores:
        await erased(stores, before=NONE)
        await stores.log.append([embedded(PORTRAIT)])
    code, said = await verified(data, capsys)
    assert code == 0
    assert said[FACES_EMBEDDED].startswith("1 records, ")


async def test_verify_lists_a_retried_event_whose_image_came_before_the_erasure(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own record came after the erasure."""
    cut = {IMAGES_RECEIVED: [NONE] * PARTITIONS, IMAGES_RECEIVED_BULK: [4] * PARTITIONS}
    events = [
        image_received(name, "learn", origin=origin_at(offset, IMAGES_RECEIVED_BULK))
        for name, offset in (("before", 3), ("after", 4))
    ]
    async with opened(data) as stores:
        await erased(stores, cut=Cut(next_offsets=cut))
        await stores.log.append([NewRecord(IMAGES_RECEIVED, it.image_id, it.encode()) for it in events])
    code, said = await verified(data, capsys)
    assert code == 0
    assert said[IMAGES_RECEIVED].startswith("1 records, ")


async def test_verify_deletes_a_face_from_the_changelog_that_was_written_after_its_erasure(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(data) as stores:
        await erased(stores)
        await stores.log.append([learned(VERSION)])
        await put_object(stores, crop_key(FACE_ID))
    code, said = await verified(data, capsys)
    assert code == 0
    assert "1 faces that a suspended process had written were deleted" in said["all"]
    assert "a suspended process" not in (await verified(data, capsys))[1]["all"]
