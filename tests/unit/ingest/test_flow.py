"""Requests are refused at once while nobody is there to finish their images."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from backends.log import CommittedOffset, Consumer, EventLog, Member, NewRecord, TopicPartition, partition_of
from backends.sqlite.log import SqliteLog
from ingest import flow as flow_module
from ingest.flow import HELD_S, NO_OWNER_S, NO_PROGRESS_S, Flow, in_ranges
from schemas.errors import HeldBack, NoProcessor, NoSink, Unavailable
from schemas.records import ImageReceived
from stream.topics import (
    FACES_DETECTED,
    FACES_EMBEDDED,
    GROUPS,
    IMAGES_RECEIVED,
    IMAGES_RECEIVED_BULK,
    PARTITIONS,
    RESULTS,
    TOPICS,
)
from stream.unused_partitions import UnusedPartitions
from tests.polling import drain
from tests.records import image_received
from tests.unit.ingest.served import served

LEARN = image_received("learned", "learn", directory="acme", person="ann")
DETECT = image_received("detected", "detect", directory=None)
ACME = partition_of("acme", PARTITIONS)


class SeenLog(SqliteLog):
    """A log whose groups can be unreadable, and whose partitions can be held back or be another program's."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.away, self.held, self.foreign = False, dict[str, dict[int, int]](), False

    async def group_members(self, group: str) -> list[Member]:
        if self.away:
            raise Unavailable("away")
        members = await super().group_members(group)
        return (
            [Member(it.name, it.partitions, "other at 10.0.0.9", True) for it in members] if self.foreign else members
        )

    async def held_offsets(self, topic: str) -> dict[int, int]:
        return self.held.get(topic, {})


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(flow_module, "time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SeenLog]:
    log = SeenLog(tmp_path / "log.db")
    await log.create_topics(TOPICS)
    yield log
    await log.close()


class Watched:
    """A flow and its clock."""

    def __init__(self, log: EventLog, clock: Clock) -> None:
        self.flow, self._clock = Flow(log, "ingest-1", UnusedPartitions(log)), clock

    async def after(self, seconds: float) -> None:
        """Looks, and again when this time has passed."""
        await self.flow.look()
        self._clock.now += seconds
        await self.flow.look()

    def errors(self, *images: ImageReceived, topic: str = IMAGES_RECEIVED) -> list[type[Exception] | None]:
        return [self._error(image, topic) for image in images]

    def _error(self, image: ImageReceived, topic: str) -> type[Exception] | None:
        try:
            self.flow.check(image, topic)
        except (NoProcessor, NoSink, HeldBack) as error:
            return type(error)
        return None


@pytest.fixture
def watched(log: SeenLog, clock: Clock) -> Watched:
    return Watched(log, clock)


async def join(log: EventLog, *groups: str) -> list[Consumer]:
    consumers = [await log.consumer(group, GROUPS[group], member="one") for group in groups]
    for consumer in consumers:
        while not consumer.assignment:
            await consumer.poll(1, 0.05)
    return consumers


async def test_without_owners_requests_that_would_wait_are_refused_after_a_while(
    log: SeenLog, watched: Watched
) -> None:
    await watched.after(NO_OWNER_S - 1)
    assert watched.errors(LEARN, DETECT) == [None, None]
    assert watched.flow.degraded() == {}
    await watched.after(1)
    assert watched.errors(LEARN, DETECT) == [NoProcessor, NoProcessor]
    assert watched.flow.degraded() == dict.fromkeys(
        (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, FACES_EMBEDDED), "no process reads all partitions"
    )
    [processor] = await join(log, "processors")
    await watched.after(0)
    assert watched.errors(LEARN, DETECT) == [NoSink, None]
    await join(log, "sink")
    await watched.after(0)
    assert watched.errors(LEARN, DETECT) == [None, None]
    assert watched.flow.degraded() == {}
    # One of two lanes alone has no reader when a process leaves.
    await processor.close()
    await watched.after(NO_OWNER_S)
    assert watched.errors(LEARN, topic=IMAGES_RECEIVED_BULK) == [NoProcessor]


async def test_the_stage_between_is_needed_only_if_records_wait_in_its_topic(log: SeenLog, watched: Watched) -> None:
    await join(log, "processors", "sink")
    await watched.after(NO_OWNER_S)
    assert watched.errors(LEARN) == [None]
    await log.append([NewRecord(FACES_DETECTED, LEARN.image_id, b"")])
    await watched.after(NO_OWNER_S)
    assert watched.errors(LEARN) == [NoProcessor]
    here = partition_of(LEARN.image_id, PARTITIONS)
    assert watched.flow.degraded() == {FACES_DETECTED: f"no process reads partition {here}"}


async def test_a_group_without_progress_refuses_once_a_request_has_waited_in_vain(
    log: SeenLog, watched: Watched
) -> None:
    _, sink = await join(log, "processors", "sink")
    await log.append([NewRecord(FACES_EMBEDDED, "a", b"", "acme")] * 2)
    await watched.after(NO_PROGRESS_S)
    assert watched.flow.degraded() == {FACES_EMBEDDED: f"nothing is finished in partition {ACME}"}
    assert watched.errors(LEARN) == [None]  # perhaps it is one image that is tried again and again
    watched.flow.note_wait(LEARN, IMAGES_RECEIVED, answered=False)
    assert watched.errors(LEARN, DETECT) == [NoSink, None]
    watched.flow.note_wait(LEARN, IMAGES_RECEIVED, answered=True)
    assert watched.errors(LEARN) == [None]
    watched.flow.note_wait(LEARN, IMAGES_RECEIVED, answered=False)
    await drain(sink, 2)
    await sink.commit({TopicPartition(FACES_EMBEDDED, ACME): CommittedOffset(1)})
    await watched.after(NO_PROGRESS_S - 1)
    assert watched.errors(LEARN) == [None]  # it was slow
    await watched.after(1)
    assert watched.errors(LEARN) == [NoSink]
    await sink.commit({TopicPartition(FACES_EMBEDDED, ACME): CommittedOffset(2)})
    await watched.after(NO_PROGRESS_S)
    assert watched.flow.degraded() == {}  # nothing waits


async def test_an_owner_that_comes_back_has_its_time(log: SeenLog, watched: Watched) -> None:
    """Without an owner there is no progress either; it is not the fault of the one that comes."""
    await log.append([NewRecord(FACES_EMBEDDED, "a", b"", "acme")])
    await watched.after(NO_PROGRESS_S + NO_OWNER_S)
    await join(log, "processors", "sink")
    watched.flow.note_wait(LEARN, IMAGES_RECEIVED, answered=False)
    await watched.after(NO_PROGRESS_S - 1)
    assert watched.flow.degraded() == {}
    await watched.after(1)
    assert watched.errors(LEARN) == [NoSink]


@pytest.mark.parametrize(
    ("topic", "image", "partition"),
    [
        (IMAGES_RECEIVED, LEARN, partition_of(LEARN.image_id, PARTITIONS)),
        (FACES_EMBEDDED, LEARN, ACME),
        (RESULTS, DETECT, partition_of("ingest-1", PARTITIONS)),
    ],
)
async def test_an_open_transaction_of_another_system_refuses_the_requests_that_it_would_hold_back(
    log: SeenLog, watched: Watched, topic: str, image: ImageReceived, partition: int
) -> None:
    await join(log, "processors", "sink")
    log.held = {topic: {partition: 7}}
    await watched.after(HELD_S - 1)
    assert watched.errors(image) == [None]
    log.held = {topic: {partition: 8}}  # another one
    await watched.after(HELD_S - 1)
    assert watched.errors(image) == [None]
    await watched.after(1)
    assert watched.errors(image) == [HeldBack]
    expected = f"a transaction of another system holds back partition {partition}"
    assert watched.flow.degraded() == {topic: expected}
    log.held = {}
    await watched.after(0)
    assert watched.errors(image) == [None]


async def test_another_program_is_no_owner(log: SeenLog, watched: Watched) -> None:
    await join(log, "processors", "sink")
    log.foreign = True
    await watched.after(NO_OWNER_S)
    assert watched.errors(LEARN) == [NoProcessor]
    assert "another program (other at 10.0.0.9) is in the group 'sink'" in watched.flow.degraded()[FACES_EMBEDDED]


async def test_time_in_which_the_log_was_away_does_not_count(
    log: SeenLog, watched: Watched, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_module, "LOOK_EVERY_S", 0.01)
    await watched.after(NO_OWNER_S - 1)
    log.away = True
    running = asyncio.create_task(watched.flow.run())
    await asyncio.sleep(0.1)
    clock.now += 600
    log.away = False
    await asyncio.sleep(0.1)
    assert watched.errors(LEARN) == [None]
    clock.now += 1
    await asyncio.sleep(0.1)
    assert watched.errors(LEARN) == [NoProcessor]
    running.cancel()


@pytest.mark.parametrize(
    ("partitions", "text"),
    [([3], "partition 3"), ([0, 1, 2, 9, 62, 63], "partitions 0-2, 9, 62-63"), (range(PARTITIONS), "all partitions")],
)
def test_partitions_are_named_in_ranges(partitions: Sequence[int], text: str) -> None:
    assert in_ranges(partitions) == text


async def test_only_requests_that_wait_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_module, "NO_OWNER_S", 0.05)
    monkeypatch.setattr(flow_module, "LOOK_EVERY_S", 0.03)
    async with served(tmp_path / "data") as service, asyncio.timeout(30):
        while (await service.detect(Prefer="wait=0.05"))[0] == 202:
            pass
        status, body, headers = await service.detect()
        assert "send Prefer: respond-async" in body["detail"]
        # Nobody is there: that is said, and not that there is too much to do.
        with pytest.MonkeyPatch.context() as old:
            old.setattr("stream.lag_monitor.LagMonitor.age_s", lambda monitor: 600.0)
            assert (await service.detect())[1]["code"] == "no_processor"
        assert (status, body["code"], headers["Retry-After"]) == (503, "no_processor", "5")
        assert sum((await service.stores.log.end_offsets(IMAGES_RECEIVED)).values()) >= 1
        status, body, _ = await service.detect(Prefer="respond-async")
        assert status == 202
        assert (await service.get(f"/results/{body['image_id']}"))[0] == 202
        async with service.session.delete(f"/images/{body['image_id']}") as response:
            assert response.status == 200
        status, text = await service.get("/readyz")
        ready = json.loads(text)
        assert (status, ready["status"]) == (200, "OK")
        assert ready["degraded"][IMAGES_RECEIVED] == "no process reads all partitions"
        assert (
            'facestream_degraded_partitions{reason="no_owner",topic="faces.embedded"} 64.0'
            in (await service.get("/metrics"))[1]
        )
        await join(service.stores.log, "processors", "sink")
        while (await service.detect(Prefer="wait=0.05"))[0] != 202:
            pass
        while "degraded" in json.loads((await service.get("/readyz"))[1]):
            pass
