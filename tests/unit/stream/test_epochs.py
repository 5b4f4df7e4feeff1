"""The notes in a worker's commits, what it concludes from those of other workers, and its count of records across
rebalances.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from pathlib import Path

import pytest

from backends.log import Consumer, Record, TopicPartition, TopicSpec
from backends.sqlite.log import SqliteLog
from schemas.errors import Unavailable
from stream import failures as failures_module
from stream.epoch import NO_EPOCH
from stream.topics import DEAD_LETTERS, IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, RESULTS
from stream.worker import Worker
from tests.unit.delegating import DelegatingConsumer
from tests.unit.stream.stages import PATIENCE_S, Stage, answered, kill, quick_and_quiet, running, send, statuses, until

PARTITIONS = 2
KEYS = "ad"  # each goes to a partition of its own


class DelayedLog(SqliteLog):
    """A log that no group can join until `there` is set, and that returns no end offsets while `ends_away` is set.
    `looked`: how often the end offsets of the images were read.
    """

    there = True
    ends_away = False
    refused = 0
    looked = 0

    async def end_offsets(self, topic: str) -> dict[int, int]:
        self.looked += topic == IMAGES_RECEIVED
        if self.ends_away:
            raise Unavailable("the log is away")
        return await super().end_offsets(topic)

    async def consumer(self, group: str, topics: Sequence[str], *, member: str, linger_s: float = 0.0) -> Consumer:
        if not self.there:
            self.refused += 1
            raise Unavailable("the log is not up yet")
        return await super().consumer(group, topics, member=member, linger_s=linger_s)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[DelayedLog]:
    log = DelayedLog(tmp_path / "log.db")
    await log.create_topics([TopicSpec(name, PARTITIONS) for name in (IMAGES_RECEIVED, RESULTS, DEAD_LETTERS)])
    yield log
    await log.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with quick_and_quiet(monkeypatch):
        yield


def worker(log: SqliteLog, stage: Stage, *, member: str = "one", most: int = 16, bulk: Sequence[str] = ()) -> Worker:
    return Worker(log, stage, [IMAGES_RECEIVED], bulk_topics=bulk, member=member, max_in_flight=most)


async def left_behind(log: SqliteLog) -> dict[TopicPartition, tuple[int, str]]:
    """The commits of the group, as the next member sees them."""
    looking = await log.consumer(Stage.name, [IMAGES_RECEIVED], member="looking")
    async with asyncio.timeout(PATIENCE_S):
        while len(looking.assignment) < PARTITIONS:
            await looking.poll(1, 0.05, paused=list(looking.assignment))
    await looking.close()
    return {at: (it.offset, it.metadata) for at, it in looking.assignment.items()}


async def most_at_once(log: SqliteLog, member: str, bulk: Sequence[str] = ()) -> int:
    """How many records, of those that are not committed, a worker of that name handles at once. It is killed at that
    point.
    """
    stage = Stage()
    gate = asyncio.Event()
    stage.blocked = dict.fromkeys(KEYS, gate)
    async with running(worker(log, stage, member=member, bulk=bulk)) as task:
        await until(lambda: len(stage.running) > 0)
        await asyncio.sleep(0.15)  # three polls' time
        await kill(task)
    return stage.most_running


async def test_a_killed_member_that_comes_back_tries_its_records_one_at_a_time(log: DelayedLog) -> None:
    for name in KEYS:
        await send(log, name, partition_key=name)
    assert await most_at_once(log, "one") == 2
    assert await most_at_once(log, "one") == 1  # what it had when it was killed
    # To the second member the first one looks like any that left. But a record that was being tried alone is a suspect
    # for every member.
    assert await most_at_once(log, "two") == 1
    async with running(worker(log, Stage(), member="two")):
        await until(lambda: eventually(log, *KEYS))


async def test_another_member_handles_the_records_of_a_killed_one_side_by_side(log: DelayedLog) -> None:
    for name in KEYS:
        await send(log, name, partition_key=name)
    assert await most_at_once(log, "one") == 2
    assert await most_at_once(log, "two") == 2
    assert await most_at_once(log, "one") == 2  # meanwhile they were another's
    assert await most_at_once(log, "one") == 1


class JoiningConsumer(DelegatingConsumer):
    """A consumer whose first polls end before it has joined its group, as Kafka's do."""

    polls = 0
    polls_before_joining = 3

    @property
    def epoch(self) -> int:  # type: ignore[override]  # as in DelegatingConsumer
        return super().epoch if self.polls > self.polls_before_joining else NO_EPOCH

    async def poll(
        self,
        max_records: int,
        timeout_s: float,
        *,
        topics: Collection[str] | None = None,
        paused: Collection[TopicPartition] = (),
    ) -> list[Record]:
        self.polls += 1
        if self.polls <= self.polls_before_joining:
            await asyncio.sleep(0)
            return []
        return await super().poll(max_records, timeout_s, topics=topics, paused=paused)


class JoiningLog(DelayedLog):
    joining: JoiningConsumer

    async def consumer(self, group: str, topics: Sequence[str], *, member: str, linger_s: float = 0.0) -> Consumer:
        self.joining = JoiningConsumer(await super().consumer(group, topics, member=member, linger_s=linger_s))
        return self.joining


@pytest.mark.parametrize("bulk", [[], [IMAGES_RECEIVED_BULK]], ids=["one lane", "two lanes"])
async def test_a_killed_member_that_joins_slowly_tries_its_records_one_at_a_time(
    log: DelayedLog, tmp_path: Path, bulk: list[str]
) -> None:
    await log.create_topics([TopicSpec(IMAGES_RECEIVED_BULK, PARTITIONS)])
    for name in KEYS:
        await send(log, name, partition_key=name)
    assert await most_at_once(log, "one", bulk) == 2
    joining = JoiningLog(tmp_path / "log.db")
    assert await most_at_once(joining, "one", bulk) == 1
    await joining.close()


async def test_a_rebalance_is_noticed_while_no_more_records_may_be_in_flight(log: DelayedLog) -> None:
    """The outputs of the records that are in flight wait for the new epoch, and may not keep it from beginning."""
    names = [f"{number}" for number in range(6)]
    stage, gate = Stage(), asyncio.Event()
    stage.blocked = dict.fromkeys(names, gate)
    async with running(worker(log, stage, most=2)):
        await send(log, *names)
        await until(lambda: len(stage.running) == 2)
        other = await log.consumer(Stage.name, [IMAGES_RECEIVED], member="other")
        gate.set()
        await until(lambda: not stage.running)
        await other.close()
        await until(lambda: eventually(log, *names))


async def test_a_worker_is_ready_only_when_it_has_joined_its_group(
    log: DelayedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JoiningConsumer, "polls_before_joining", 1_000_000)
    joining_log = JoiningLog(tmp_path / "log.db")
    joining = worker(joining_log, Stage())
    task = asyncio.create_task(joining.run())
    await until(lambda: hasattr(joining_log, "joining") and joining_log.joining.polls > 3)
    with pytest.raises(Unavailable, match="joining its consumer group"):
        await joining.check()
    joining_log.joining.polls_before_joining = 0
    await asyncio.wait_for(joining.ready.wait(), PATIENCE_S)
    await joining.check()
    joining.stop()
    await asyncio.wait_for(task, PATIENCE_S)
    await joining_log.close()


async def eventually(log: SqliteLog, *names: str) -> bool:
    lag = sum((await log.lag(Stage.name, IMAGES_RECEIVED)).values())
    return lag == 0 and await answered(log) == statuses(*names)


async def test_commits_note_the_name_of_a_killed_worker_and_the_clean_stop_of_another(
    log: DelayedLog,
) -> None:
    async with running(worker(log, Stage(), member="one")) as task:
        await send(log, "a", partition_key="a")
        await until(lambda: eventually(log, "a"))
        await kill(task)
    left = await left_behind(log)
    assert {note for _, note in left.values()} == {"run by one"}  # of both partitions, also where nothing came
    assert sorted(offset for offset, _ in left.values()) == [0, 1]
    async with running(worker(log, Stage(), member="two")):
        await send(log, "d", partition_key="d")
        await until(lambda: eventually(log, "a", "d"))
    left = await left_behind(log)
    assert {note for _, note in left.values()} == {"stopped"}
    assert sorted(offset for offset, _ in left.values()) == [1, 1]


async def test_the_count_of_records_in_flight_is_right_after_a_rebalance(
    log: DelayedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the rebalance comes, some records are being handled. Others wait for another try; their wait ends when their
    partitions are another member's, or when they have been polled again.
    """
    monkeypatch.setattr(failures_module, "BACKOFF_FIRST_S", 0.4)
    monkeypatch.setattr(failures_module, "BACKOFF_MOST_S", 0.4)
    most = 4
    waiting = [f"waiting-{number}" for number in range(3)]
    stage = Stage({name: [Unavailable("away")] for name in waiting})
    held = [f"held-{number}" for number in range(3 * most)]
    gate = asyncio.Event()
    stage.blocked = {"under way": asyncio.Event()} | dict.fromkeys(held, gate)
    async with running(worker(log, stage, most=most)):
        await send(log, *waiting, "under way")
        await until(lambda: all(stage.tries(name) == 1 for name in [*waiting, "under way"]))
        log.looked = 0
        other = await log.consumer(Stage.name, [IMAGES_RECEIVED], member="two")
        await until(lambda: log.looked > 0)  # the new epoch begins, and waits for what is under way
        stage.blocked["under way"].set()
        await until(lambda: len(stage.assignments) == 2)
        await other.close()
        await until(lambda: eventually(log, *waiting, "under way"))
        await asyncio.sleep(0.5)  # those of the first epoch come back too
        await send(log, *held)
        await until(lambda: len(stage.running) == most)  # it does not stall
        await asyncio.sleep(0.15)  # three polls' time to take more than it may
        assert len(stage.running) == most
        gate.set()
        await until(lambda: eventually(log, *waiting, "under way", *held))
    assert stage.most_running == most


async def test_a_worker_waits_for_a_log_that_is_not_there_yet(log: DelayedLog) -> None:
    log.there = False
    await send(log, "a")
    stage = Stage()
    it = worker(log, stage)
    task = asyncio.create_task(it.run())
    await until(lambda: log.refused > 2)
    assert not it.ready.is_set()
    with pytest.raises(Unavailable):
        await it.check()
    log.there = True
    await until(lambda: eventually(log, "a"))
    await it.check()
    it.stop()
    await asyncio.wait_for(task, PATIENCE_S)


async def test_a_stop_ends_the_wait_for_the_log(log: DelayedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.stop_signal.LOG_AWAY_S", 1_000)
    log.there = False
    it = worker(log, Stage())
    task = asyncio.create_task(it.run())
    await until(lambda: log.refused == 1)
    it.stop()
    await asyncio.wait_for(task, PATIENCE_S)
    assert not it.ready.is_set()


async def test_a_stop_ends_the_wait_for_the_log_while_an_epoch_begins(log: DelayedLog) -> None:
    log.ends_away = True
    await send(log, "a")
    stage = Stage()
    it = worker(log, stage)
    task = asyncio.create_task(it.run())
    await until(lambda: log.looked > 2)
    it.stop()
    await asyncio.wait_for(task, PATIENCE_S)
    assert stage.handled == []
    log.ends_away = False
    async with running(worker(log, stage)):
        await until(lambda: eventually(log, "a"))
