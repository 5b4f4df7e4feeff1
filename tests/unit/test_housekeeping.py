"""What is swept now and then, on real stores: only what is past its time."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog.testing

from backends.log import NewRecord, TopicSpec
from backends.log_sqlite import SqliteLog
from backends.objects_files import FileObjects
from backends.vectors import EXPIRED_KEPT_S, StoredAnswer
from backends.vectors_sqlite import SqliteVectors
from facestream import housekeeping
from facestream.housekeeping import DAY_S, Housekeeping
from schemas.errors import Unavailable


class Stores:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = SqliteLog(folder / "log.db")
        self.objects = FileObjects(folder / "objects")
        self.vectors = SqliteVectors(folder / "vectors.db")

    def housekeeping(self, keep_probes: float) -> Housekeeping:
        return Housekeeping(self.log, self.objects, self.vectors, keep_probes)

    async def put(self, key: str, *, age_days: float) -> None:
        before = set(await asyncio.to_thread(self._files))
        await self.objects.put(key, b"picture")
        (new,) = set(await asyncio.to_thread(self._files)) - before
        then = time.time() - age_days * DAY_S
        os.utime(new, (then, then))

    def _files(self) -> list[Path]:
        return [it for it in (self.folder / "objects").rglob("*") if it.is_file()]

    async def keys(self) -> set[str]:
        return {it.key async for it in self.objects.list()}


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    made = Stores(tmp_path)
    await made.log.create_topics([TopicSpec("events", 1, retention_s=0.05), TopicSpec("kept", 1)])
    yield made
    await made.log.close()
    await made.objects.close()
    await made.vectors.close()


@pytest.mark.parametrize(("keep_probes", "kept"), [(7, {1.5, 6.9}), (2, {1.5}), (0.5, set()), (0, set())])
async def test_pictures_of_probes_go_after_their_time_those_of_learned_people_never(
    stores: Stores, keep_probes: float, kept: set[float]
) -> None:
    for age in (1.5, 6.9, 7.1, 30):
        for prefix in ("probes", "originals", "crops"):
            await stores.put(f"{prefix}/{age}", age_days=age)
    await stores.housekeeping(keep_probes).once()
    learned = {f"{prefix}/{age}" for prefix in ("originals", "crops") for age in (1.5, 6.9, 7.1, 30)}
    assert await stores.keys() == learned | {f"probes/{age}" for age in kept}


async def test_a_picture_that_waits_for_its_answer_is_not_swept_even_if_none_are_kept(stores: Stores) -> None:
    await stores.put("probes/waits", age_days=0.9)
    await stores.put("probes/left over", age_days=1.1)
    await stores.housekeeping(0).once()
    assert await stores.keys() == {"probes/waits"}


async def test_more_pictures_than_go_at_once_all_go(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "AT_ONCE", 3)
    for number in range(10):
        await stores.put(f"probes/{number}", age_days=8 if number != 4 else 1)
    await stores.housekeeping(7).once()
    assert await stores.keys() == {"probes/4"}


async def test_an_expired_answer_is_known_for_a_week(stores: Stores) -> None:
    now = time.time()
    ages = {"fresh": -60.0, "expired": 60.0, "nearly a week": EXPIRED_KEPT_S - 60, "a week": EXPIRED_KEPT_S + 60}
    await stores.vectors.put_answers([StoredAnswer(name, "{}", now - age) for name, age in ages.items()])
    await stores.housekeeping(7).once()
    assert [name for name in ages if await stores.vectors.answer(name)] == ["fresh", "expired", "nearly a week"]


async def test_the_log_keeps_its_retention(stores: Stores) -> None:
    await stores.log.append([NewRecord("events", "a", b""), NewRecord("kept", "a", b"")])
    await asyncio.sleep(0.1)  # the retention of `events`
    await stores.housekeeping(7).once()
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
