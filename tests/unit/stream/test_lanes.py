"""Two lanes in one loop: the bulk lane never holds up the first one, and is never starved by it."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from backends.log import Consumer, NewRecord, Record, TopicSpec
from backends.sqlite.log import SqliteLog
from schemas.errors import Unavailable
from stream.lanes import BULK_WHILE_BUSY
from stream.topics import DEAD_LETTERS, IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, RESULTS
from stream.worker import Worker
from tests.unit.delegating import DelegatingConsumer
from tests.unit.stream.stages import Stage, answered, kill, quick_and_quiet, running, send, statuses, until

PARTITIONS = 4
MOST = 16


class SeenConsumer(DelegatingConsumer):
    """Records what each poll returned, by topic."""

    def __init__(self, inner: Consumer, polls: list[list[str]]) -> None:
        super().__init__(inner)
        self.polls = polls

    async def poll(self, max_records: int, timeout_s: float, **named: Any) -> list[Record]:
        records = await super().poll(max_records, timeout_s, **named)
        self.polls.append([record.topic for record in records])
        return records


class SeenLog(SqliteLog):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.polls: list[list[str]] = []

    async def consumer(self, group: str, topics: Sequence[str], *, member: str, linger_s: float = 0.0) -> Consumer:
        return SeenConsumer(await super().consumer(group, topics, member=member, linger_s=linger_s), self.polls)


class BusyStage(Stage):
    """Takes one to five short waits for each record, and records the topics. `most_beside`: the most bulk records that
    ran at once beside the first lane.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = {IMAGES_RECEIVED: 0, IMAGES_RECEIVED_BULK: 0}
        self.most_beside = 0
        self.topics: list[str] = []

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        topics = [record.topic for record in records]
        for topic in topics:
            self.now[topic] += 1
        if self.now[IMAGES_RECEIVED]:
            self.most_beside = max(self.most_beside, self.now[IMAGES_RECEIVED_BULK])
        self.topics += topics
        try:
            await asyncio.sleep(0.001 * (1 + len(self.topics) % 5))
            return await super().handle(records)
        finally:
            for topic in topics:
                self.now[topic] -= 1


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SeenLog]:
    log = SeenLog(tmp_path / "log.db")
    topics = (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, RESULTS, DEAD_LETTERS)
    await log.create_topics([TopicSpec(name, PARTITIONS) for name in topics])
    yield log
    await log.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with quick_and_quiet(monkeypatch):
        yield


def worker(log: SqliteLog, stage: Stage) -> Worker:
    return Worker(log, stage, [IMAGES_RECEIVED], bulk_topics=[IMAGES_RECEIVED_BULK], member="one", max_in_flight=MOST)


async def send_bulk(log: SqliteLog, *names: str) -> None:
    await send(log, *names, topic=IMAGES_RECEIVED_BULK)


async def ended(log: SqliteLog, count: int) -> bool:
    """Whether so many answers are there, and nothing is left of either lane."""
    lag = [sum((await log.lag(Stage.name, topic)).values()) for topic in (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK)]
    return lag == [0, 0] and sum((await log.end_offsets(RESULTS)).values()) >= count


def image_names(lane: str, count: int) -> list[str]:
    return [f"{lane}-{number}" for number in range(count)]


async def test_bulk_gets_a_share_in_small_batches_while_the_first_lane_is_always_full(log: SeenLog) -> None:
    first, bulk = image_names("first", 600), image_names("bulk", 200)
    await send(log, *first)
    await send_bulk(log, *bulk)
    stage = BusyStage()
    stage.blocked = {first[0]: asyncio.Event()}  # at no moment is the first lane idle
    async with running(worker(log, stage)):
        await until(lambda: stage.topics.count(IMAGES_RECEIVED) == len(first))
        beside = list(stage.topics)
        polls = [topics for topics in log.polls if topics]
        until_full = polls[: max(i for i, topics in enumerate(polls) if IMAGES_RECEIVED in topics)]
        assert 0 < stage.most_beside <= BULK_WHILE_BUSY
        stage.blocked[first[0]].set()
        await until(lambda: ended(log, len(first) + len(bulk)))
    of_bulk = [topics for topics in until_full if IMAGES_RECEIVED_BULK in topics]
    assert len(of_bulk) >= 0.05 * len(until_full) - 1
    assert max(map(len, of_bulk)) <= BULK_WHILE_BUSY
    assert 0 < beside.count(IMAGES_RECEIVED_BULK) < 0.2 * len(first)
    assert await answered(log) == statuses(*first, *bulk)


async def test_while_the_first_lane_is_idle_bulk_gets_a_quarter(log: SeenLog) -> None:
    bulk = image_names("bulk", 40)
    stage = Stage()
    gate = asyncio.Event()
    stage.blocked = dict.fromkeys(bulk, gate)
    async with running(worker(log, stage)):
        await send_bulk(log, *bulk)
        await until(lambda: len(stage.running) == MOST // 4)
        await asyncio.sleep(0.15)  # three polls' time to take more than it may
        assert len(stage.running) == MOST // 4
        gate.set()
        await until(lambda: ended(log, len(bulk)))
    assert stage.most_running == MOST // 4
    assert await answered(log) == statuses(*bulk)


async def test_bulk_does_not_wait_for_an_empty_first_lane(log: SeenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll of the first lane must not sit out its time while places of the bulk lane have become free."""
    monkeypatch.setattr("stream.lanes.POLL_S", 0.5)
    bulk = image_names("bulk", 200)
    await send_bulk(log, *bulk)
    async with running(worker(log, BusyStage())):
        await asyncio.wait_for(until(lambda: ended(log, len(bulk))), 20)  # fifty rounds of 0.5 s would be 25 s
    assert await answered(log) == statuses(*bulk)


async def test_an_image_of_the_first_lane_does_not_wait_for_a_thousand_of_bulk(log: SeenLog) -> None:
    bulk = image_names("bulk", 1_000)
    await send_bulk(log, *bulk)
    stage = Stage()
    gate = asyncio.Event()
    stage.blocked = dict.fromkeys(bulk, gate)
    async with running(worker(log, stage)):
        await until(lambda: len(stage.running) == MOST // 4)
        await asyncio.sleep(0.1)
        await send(log, "first")  # none of bulk ends meanwhile
        sent = len(log.polls)
        await until(lambda: "first" in stage.handled)
        assert len(log.polls) <= sent + 5
        stage.blocked.clear()
        gate.set()
        await until(lambda: "bulk-500" in stage.handled or len(stage.handled) > 500)
        handled = len(stage.handled)
        await send(log, "second")  # while bulk moves
        await until(lambda: "second" in stage.handled)
        assert stage.handled.index("second") <= handled + 5 * (MOST // 4)
        await until(lambda: ended(log, 1_002))
    assert await answered(log) == statuses("first", "second", *bulk)


async def test_bulk_gets_its_quarter_while_the_first_lane_waits_to_retry(log: SeenLog) -> None:
    stage = Stage({name: [Unavailable("away")] * 1_000 for name in image_names("first", 3)})
    stage.store_away = True
    bulk = image_names("bulk", 20)
    gate = asyncio.Event()
    stage.blocked = dict.fromkeys(bulk, gate)
    async with running(worker(log, stage)) as task:
        await send(log, *image_names("first", 3))
        await until(lambda: all(stage.tries(name) > 1 for name in image_names("first", 3)))
        await send_bulk(log, *bulk)
        await until(lambda: sum(name in bulk for name in stage.running) == MOST // 4)
        gate.set()
        await until(lambda: bulk_ended(log, len(bulk)))
        await kill(task)
    assert await answered(log) == statuses(*bulk)


async def bulk_ended(log: SqliteLog, count: int) -> bool:
    return sum((await log.lag(Stage.name, IMAGES_RECEIVED_BULK)).values()) == 0 and len(await answered(log)) == count


async def test_nothing_of_either_lane_is_lost_when_workers_die_and_stop(log: SeenLog) -> None:
    first, bulk = image_names("first", 300), image_names("bulk", 300)
    await send(log, *first)
    await send_bulk(log, *bulk)
    for share in (0.2, 0.4, 0.6, 0.8):
        stage = BusyStage()
        it = worker(log, stage)
        async with running(it) as task:
            await until(lambda: share_of(log, share * 600))  # noqa: B023 - it is awaited in this turn
            if share in (0.2, 0.6):
                await kill(task)
    async with running(worker(log, BusyStage())):
        await until(lambda: ended(log, 600))
    assert await answered(log) == statuses(*first, *bulk)


async def share_of(log: SqliteLog, count: float) -> bool:
    return len(await answered(log)) >= count
