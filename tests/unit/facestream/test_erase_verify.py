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
from pathlib import Path

import numpy as np
import pytest
import structlog

from backends.log import CommittedOffset, EventLog, NewRecord
from backends.vectors import Face, FaceVector, StoredAnswer
from facestream.cli import main
from facestream.commands import erase
from facestream.config import Settings
from facestream.runtime.stores import Stores, create_stores, open_stores
from schemas.ids import crop_key, learned_face_id, original_key, sheet_key
from schemas.records import Answer, EraseRequested, FacesDetected, FacesReembedded, Purpose, ReembeddedFace
from stream.catch_up import remaining_lag
from stream.erase.erasures import ErasurePosition, Erasures
from stream.erase.redaction import redact
from stream.topics import (
    DEAD_LETTERS,
    FACES_DETECTED,
    FACES_EMBEDDED,
    FACES_LEARNED,
    IMAGES_RECEIVED,
    IMAGES_RECEIVED_BULK,
    RESULTS,
)
from tests.answers import MODELS
from tests.records import (
    answer_with_name,
    dead_letter_of,
    erasure_keys,
    erasure_record,
    face_learned,
    faces_embedded,
    image_id,
    image_received,
)
from weights.manifest import manifest

GENERATION = manifest().default_generation
HOUR_MS = 3_600_000
NOW = int(time.time() * 1000)
ERASED_AT = NOW + HOUR_MS  # what is appended by a test came before that
OFFSET = 100
IMAGE_ID = image_id("image")
FACE_ID = learned_face_id(IMAGE_ID)
KEYS = erasure_keys("image")
PORTRAIT = image_received("image", "learn")

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


async def erased(stores: Stores, what: str = "person", at: int = ERASED_AT) -> None:
    await stores.log.append([erasure_record(KEYS[what], at=at, offset=OFFSET)])


async def verified(data: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    """The exit code, and the output by store and topic."""
    code = await asyncio.to_thread(main, ["erase", "verify", "--data", str(data)])
    lines = capsys.readouterr().out.splitlines()
    return code, dict(line.split(": ", 1) for line in lines if ": " in line) | {"all": "\n".join(lines)}


def answer_naming_obama(purpose: Purpose, offset: int = OFFSET - 1) -> Answer:
    return answer_with_name("image", purpose, offset=offset)


async def put_vector(stores: Stores, timestamp: int = NOW) -> None:
    face = Face("obama", FACE_ID, IMAGE_ID, "source", timestamp)
    await stores.vectors.put_faces([FaceVector("acme", GENERATION, face, np.ones(128, np.float32))])


async def put_answer(stores: Stores, answer: Answer) -> None:
    await stores.vectors.put_answers([StoredAnswer(IMAGE_ID, answer.encode().decode(), time.time() + 60)])


async def put_object(stores: Stores, key: str, **metadata: str) -> None:
    described = {"directory": "acme", "person": "obama", "image_id": IMAGE_ID, "received": str(NOW / 1000)} | metadata
    await stores.objects.put(key, b"picture", described)


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
    assert code == 0
    assert {it for name, it in said.items() if name != "all"} == {"nothing left"}
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
        await erased(stores, at=NOW - HOUR_MS)
        await put_vector(stores)
        await put_answer(stores, answer_naming_obama("learn", offset=OFFSET + 1))
        for key in (crop_key(FACE_ID), original_key(IMAGE_ID, "learn")):
            await put_object(stores, key)
        await stores.log.append([NewRecord(IMAGES_RECEIVED, IMAGE_ID, PORTRAIT.encode())])
    code, said = await verified(data, capsys)
    assert code == 0
    assert {it for name, it in said.items() if name != "all"} == {"nothing left"}


@pytest.mark.parametrize("what", KEYS)
async def test_verify_accepts_a_redacted_answer(data: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    async with opened(data) as stores:
        await erased(stores, what)
        erasures = Erasures(stores.log)
        erasures.add(KEYS[what], ErasurePosition(ERASED_AT, OFFSET))
        for number, purpose in enumerate(PURPOSES):
            left = redact(answer_naming_obama(purpose), erasures)
            await stores.vectors.put_answers([StoredAnswer(f"{number}", left.encode().decode(), time.time() + 60)])
    assert (await verified(data, capsys))[0] == 0


@pytest.mark.parametrize("prefix", ["learn", "recognize"])
async def test_verify_accepts_a_picture_whose_event_came_after_the_erasure(
    data: Path, capsys: pytest.CaptureFixture[str], prefix: str
) -> None:
    """The picture was stored before the directory was erased, and its event appended afterwards."""
    async with opened(data) as stores:
        await erased(stores, "directory", at=NOW - 1)
        await put_object(stores, original_key(IMAGE_ID, prefix), received=str(NOW / 1000 - 1))
        await stores.log.append([NewRecord(IMAGES_RECEIVED, IMAGE_ID, PORTRAIT.encode())])
    assert (await verified(data, capsys))[0] == 0


@pytest.mark.parametrize(("age_s", "deleted"), [(600, False), (1_200, True)])
async def test_verify_reports_pictures_of_unacknowledged_uploads_separately(
    data: Path, capsys: pytest.CaptureFixture[str], age_s: float, deleted: bool
) -> None:
    key = original_key(IMAGE_ID, "learn")
    async with opened(data) as stores:
        await erased(stores)
        await put_object(stores, key, received=str(time.time() - age_s))
    code, said = await verified(data, capsys)
    assert code == 0
    assert said["objects"] == "nothing left"
    assert ("1 pictures of uploads that were never acknowledged" in said["all"]) == deleted
    assert ("1 pictures of uploads that may still be under way" in said["all"]) == (not deleted)
    async with opened(data) as stores:
        assert (await stores.objects.metadata(key) is None) == deleted


async def test_verify_finds_the_picture_of_an_accepted_image(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with opened(data) as stores:
        await stores.log.append([NewRecord(IMAGES_RECEIVED, IMAGE_ID, PORTRAIT.encode())])
        await _pass(stores, "processors", IMAGES_RECEIVED)
        await erased(stores)
        await put_object(stores, original_key(IMAGE_ID, "learn"), received=str(NOW / 1000 - 1_200))
        await put_object(stores, sheet_key(IMAGE_ID), received=str(NOW / 1000 - 1_200))
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
        await stores.log.append([NewRecord(IMAGES_RECEIVED, IMAGE_ID, PORTRAIT.encode())])
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
        await stores.log.append([NewRecord(IMAGES_RECEIVED, IMAGE_ID, PORTRAIT.encode())])
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


LEARNED = face_learned("image", learned_at=NOW)
REEMBEDDED = ReembeddedFace(person="obama", face_id=FACE_ID, image_id=IMAGE_ID, source="s", learned_at=NOW, vector="")
TELLING: dict[str, tuple[NewRecord, float]] = {  # a record about an erased person, and for how many days it is kept
    "an upload": (NewRecord(IMAGES_RECEIVED, IMAGE_ID, PORTRAIT.encode()), 7),
    "one of the second lane": (NewRecord(IMAGES_RECEIVED_BULK, IMAGE_ID, PORTRAIT.encode()), 7),
    "a detected face": (
        NewRecord(
            FACES_DETECTED,
            IMAGE_ID,
            FacesDetected(received=PORTRAIT, received_at=NOW, faces=[], models=MODELS).encode(),
        ),
        7,
    ),
    "an embedded face": (
        NewRecord(FACES_EMBEDDED, IMAGE_ID, faces_embedded(PORTRAIT, received_at=NOW).encode()),
        7,
    ),
    "one of a replay": (
        NewRecord(
            FACES_EMBEDDED, IMAGE_ID, FacesReembedded(directory="acme", generation="x", faces=[REEMBEDDED]).encode()
        ),
        7,
    ),
    "the command": (
        NewRecord(
            FACES_EMBEDDED, IMAGE_ID, EraseRequested(image_id=IMAGE_ID, directory="acme", person="obama").encode()
        ),
        7,
    ),
    "the changelog": (NewRecord(FACES_LEARNED.name, IMAGE_ID, LEARNED.encode()), 1 / 24),
    "an answer": (NewRecord(RESULTS, IMAGE_ID, answer_naming_obama("recognize").encode()), 1),
    "a dead letter": (dead_letter_of(PORTRAIT, at=NOW), 14),
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
            await stores.log.append([NewRecord(FACES_LEARNED.name, IMAGE_ID, None)])
    code, said = await verified(data, capsys)
    assert code == 0
    others = {name: it for name, it in said.items() if name not in ("all", record.topic)}
    assert set(others.values()) == {"nothing left"}
    count, until = re.fullmatch(r"(\d+) records, gone by (.*) UTC", said[record.topic]).groups()  # type: ignore[union-attr]
    goes = time.mktime(time.strptime(until, "%Y-%m-%d %H:%M")) - time.timezone
    assert count == "1"
    assert goes == pytest.approx(time.time() + days * 86_400, abs=120)


async def test_verify_deletes_a_face_from_the_changelog_that_was_written_after_its_erasure(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(data) as stores:
        await erased(stores)
        await stores.log.append([NewRecord(FACES_LEARNED.name, IMAGE_ID, LEARNED.encode(), "acme")])
        await put_object(stores, crop_key(FACE_ID))
    code, said = await verified(data, capsys)
    assert code == 0
    assert "1 faces that a suspended process had written were deleted" in said["all"]
    assert "a suspended process" not in (await verified(data, capsys))[1]["all"]
