"""Housekeeping on real stores deletes only expired data."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import structlog.testing

from backends.files.objects import FileObjects
from backends.log import NewRecord, TopicSpec
from backends.sqlite.log import SqliteLog
from backends.sqlite.vectors import SqliteVectors
from backends.vectors import EXPIRED_KEPT_S, Face, FaceVector, StoredAnswer
from facestream.runtime import housekeeping
from facestream.runtime.housekeeping import DAY_S, Housekeeping
from facestream.runtime.system_state import SystemState
from schemas.errors import Unavailable
from schemas.ids import crop_key, learned_face_id, original_key
from stream import object_listing
from stream.erase.erasures import Erasures, object_keys_of_image
from stream.generations import Generations, active_record, generation_record
from stream.topics import FACES_DETECTED, FACES_EMBEDDED, IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, TOPICS
from tests.records import appended, erasure_keys, erasure_record, image_id, image_received
from tests.unit.stream.stages import commit_all
from weights.manifest import manifest

ERASED = erasure_keys("image")["person"]


class Stores:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = SqliteLog(folder / "log.db")
        self.objects = FileObjects(folder / "objects")
        self.vectors = SqliteVectors(folder / "vectors.db")
        self.state = SystemState(
            Generations(self.log, manifest().generation(manifest().default_generation)), Erasures(self.log)
        )

    def housekeeping(self, keep_probes: float) -> Housekeeping:
        return Housekeeping(self.log, self.objects, self.vectors, self.state, keep_probes)

    async def put(self, key: str, *, age_days: float, **metadata: str) -> None:
        before = set(await asyncio.to_thread(self._files))
        await self.objects.put(key, b"picture", metadata)
        (new,) = set(await asyncio.to_thread(self._files)) - before
        then = time.time() - age_days * DAY_S
        os.utime(new, (then, then))

    def _files(self) -> list[Path]:
        return [it for it in (self.folder / "objects").rglob("*") if it.is_file()]

    async def keys(self) -> set[str]:
        return {it.key async for it in self.objects.list()}

    async def has_cut(self) -> bool:
        """Whether the erasure of ERASED has its cut still."""
        await self.state.erasures.refresh()
        known = self.state.erasures.get(ERASED)
        assert known is not None
        return known.erasure.cut is not None


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    made = Stores(tmp_path)
    await made.log.create_topics([TopicSpec("events", 1, retention_s=0.05), TopicSpec("kept", 1), *TOPICS])
    await made.state.erasures.start()
    yield made
    await made.state.erasures.close()
    await made.log.close()
    await made.objects.close()
    await made.vectors.close()


@pytest.mark.parametrize(("keep_probes", "kept"), [(7, {1.5, 6.9}), (2, {1.5}), (0.5, set()), (0, set())])
async def test_probe_pictures_are_deleted_after_their_time_but_never_those_of_learned_people(
    stores: Stores, keep_probes: float, kept: set[float]
) -> None:
    for age in (1.5, 6.9, 7.1, 30):
        for prefix in ("probes", "originals", "crops"):
            await stores.put(f"{prefix}/{age}", age_days=age)
    await stores.housekeeping(keep_probes).clean()
    learned = {f"{prefix}/{age}" for prefix in ("originals", "crops") for age in (1.5, 6.9, 7.1, 30)}
    assert await stores.keys() == learned | {f"probes/{age}" for age in kept}


async def test_a_picture_that_waits_for_its_answer_is_kept_even_if_probes_are_not(stores: Stores) -> None:
    await stores.put("probes/waits", age_days=0.9)
    await stores.put("probes/left over", age_days=1.1)
    await stores.housekeeping(0).clean()
    assert await stores.keys() == {"probes/waits"}


async def test_more_pictures_than_one_batch_are_all_deleted(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_listing, "OBJECTS_PER_DELETE", 3)
    for number in range(10):
        await stores.put(f"probes/{number}", age_days=8 if number != 4 else 1)
    await stores.housekeeping(7).clean()
    assert await stores.keys() == {"probes/4"}


async def test_pictures_that_were_never_learned_are_deleted_after_their_time(stores: Stores) -> None:
    """An image was learned if any generation in use has its face; one that was activated by force may lack it."""
    old, active = (
        stores.state.generations.active,
        manifest().generation("dlib-resnet29").model_copy(update={"state": "complete"}),
    )
    for made in (generation_record(active), active_record(active.name)):
        stores.state.generations.apply(appended(made))
    kept = set()
    for name, age_days, generation in (
        ("undecided", 14.0, None),
        ("given up", 16.0, None),
        ("looked at before", 23.0, None),
        ("learned", 16.0, active.name),
        ("learned before", 16.0, old.name),
    ):
        portrait = image_id(name)
        face_id = learned_face_id(portrait)
        keys = {original_key(portrait, "learn"), crop_key(face_id)}
        for key in keys:
            await stores.put(key, age_days=age_days, directory="acme", person="obama", image_id=portrait)
        if generation is not None:
            face = Face("obama", face_id, portrait, f"source of {name}", 1_000)
            await stores.vectors.put_faces([FaceVector("acme", generation, face, np.ones(128, np.float32))])
        if name != "given up":
            kept |= keys
    await stores.housekeeping(7).clean()
    assert await stores.keys() == kept


RECOGNIZE, LEARN = image_received("unfinished", "recognize"), image_received("unfinished", "learn")
UNFINISHED = {  # by consumer group: records that it has not handled yet
    "an upload": ("processors", NewRecord(IMAGES_RECEIVED, RECOGNIZE.image_id, RECOGNIZE.encode())),
    "one of the second lane": ("processors", NewRecord(IMAGES_RECEIVED_BULK, "a key", RECOGNIZE.encode())),
    "a portrait": ("processors", NewRecord(IMAGES_RECEIVED, LEARN.image_id, LEARN.encode())),
    "a detected face": ("embedders", NewRecord(FACES_DETECTED, LEARN.image_id, b"")),
    "an embedded face": ("sink", NewRecord(FACES_EMBEDDED, LEARN.image_id, b"", "acme")),
}


@pytest.mark.parametrize("what", UNFINISHED)
async def test_the_pictures_of_an_image_are_kept_until_it_is_finished(stores: Stores, what: str) -> None:
    """However old they are: the system may have been away for long, and a clock may be wrong."""
    group, record = UNFINISHED[what]
    pictures = object_keys_of_image(image_id("unfinished"))
    for key in (*pictures, *object_keys_of_image(image_id("other"))):
        image = "unfinished" if key in pictures else "other"
        await stores.put(key, age_days=16, directory="acme", person="obama", image_id=image_id(image))
    await stores.log.append([record])
    await stores.housekeeping(7).clean()
    assert await stores.keys() == set(pictures)
    await commit_all(stores.log, group, record.topic)
    await stores.housekeeping(7).clean()
    assert await stores.keys() == set()


async def test_an_erasure_loses_its_cut_when_nothing_from_before_it_is_left(stores: Stores) -> None:
    """The next time housekeeping looks, because the topics behind may have had records from before it until then."""
    await stores.log.append([erasure_record(ERASED, before=0)])
    cuts = [await stores.has_cut()]
    for _ in range(3):
        await stores.housekeeping(7).clean()
        cuts.append(await stores.has_cut())
    assert cuts == [True, True, False, False]


@pytest.mark.parametrize("left", ["an upload", "a detected face", "an embedded face"])
async def test_an_erasure_keeps_its_cut_while_an_image_from_before_it_may_still_come(stores: Stores, left: str) -> None:
    before = 1 if left == "an upload" else 0
    await stores.log.append([UNFINISHED[left][1], erasure_record(ERASED, before=before)])
    for _ in range(4):
        assert await stores.has_cut()
        await stores.housekeeping(7).clean()


async def test_an_expired_answer_is_known_for_a_week(stores: Stores) -> None:
    now = time.time()
    ages = {"fresh": -60.0, "expired": 60.0, "nearly a week": EXPIRED_KEPT_S - 60, "a week": EXPIRED_KEPT_S + 60}
    await stores.vectors.put_answers([StoredAnswer(name, "{}", now - age) for name, age in ages.items()])
    await stores.housekeeping(7).clean()
    assert [name for name in ages if await stores.vectors.answer(name)] == ["fresh", "expired", "nearly a week"]


async def test_the_log_keeps_its_retention(stores: Stores) -> None:
    await stores.log.append([NewRecord("events", "a", b""), NewRecord("kept", "a", b"")])
    await asyncio.sleep(0.1)  # the retention of `events`
    await stores.housekeeping(7).clean()
    for topic, left in (("events", 0), ("kept", 1)):
        reader = await stores.log.reader(topic, at="start")
        assert len(await reader.poll(10, 0)) == left
        await reader.close()


async def test_a_store_that_is_away_is_tried_again(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "EVERY_S", 0.01)
    await stores.put("probes/old", age_days=8)
    sweep, failures = stores.vectors.sweep_answers, 2

    async def away(expired_before: float) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise Unavailable("away")
        await sweep(expired_before)

    monkeypatch.setattr(stores.vectors, "sweep_answers", away)
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(stores.housekeeping(7).run())
        deadline = time.monotonic() + 10
        while await stores.keys():
            assert time.monotonic() < deadline, "never swept"
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
    assert [it["code"] for it in logs if it["log_level"] == "warning"] == ["unavailable"] * 2
