"""Several sequences in one partition: each is handled in order, and none delays another."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from backends.log import TopicSpec, partition_of
from backends.sqlite.log import SqliteLog
from schemas.errors import Unavailable
from schemas.records import ImageReceived
from stream.topics import DEAD_LETTERS, IMAGES_RECEIVED, RESULTS
from stream.worker import Worker
from tests.unit.stream.stages import (
    Stage,
    answered,
    image,
    kill,
    quick_and_quiet,
    read_all,
    running,
    send,
    statuses,
    until,
)


class WatchedLog(SqliteLog):
    """Counts how often the end offsets of the images were read."""

    looked = 0

    async def end_offsets(self, topic: str) -> dict[int, int]:
        self.looked += topic == IMAGES_RECEIVED
        return await super().end_offsets(topic)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[WatchedLog]:
    log = WatchedLog(tmp_path / "log.db")
    await log.create_topics([TopicSpec(name, 1) for name in (IMAGES_RECEIVED, RESULTS, DEAD_LETTERS)])
    yield log
    await log.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with quick_and_quiet(monkeypatch):
        yield


def worker(log: SqliteLog, stage: Stage, *, most: int = 64, suspects_together: int = 1) -> Worker:
    """The sequence of an image is the first letter of its name."""
    return Worker(
        log,
        stage,
        [IMAGES_RECEIVED],
        sequence_of=lambda record: ImageReceived.decode(record.value).filename[0],
        member="one",
        max_in_flight=most,
        suspects_per_attempt=suspects_together,
    )


async def committed(log: SqliteLog) -> int:
    (end,), (lag,) = (
        (await log.end_offsets(IMAGES_RECEIVED)).values(),
        (await log.lag(Stage.name, IMAGES_RECEIVED)).values(),
    )
    return end - lag


async def handled_and_answered(log: SqliteLog, *names: str) -> bool:
    return await answered(log) == statuses(*names)


async def test_a_blocked_sequence_does_not_delay_others(log: SqliteLog) -> None:
    stage = Stage()
    stage.blocked = {"a0": asyncio.Event()}
    async with running(worker(log, stage)):
        await send(log, "b0", "a0", "b1", "c0")
        await until(lambda: handled_and_answered(log, "b0", "b1", "c0"))
        await send(log, "a1", "b2")
        await until(lambda: handled_and_answered(log, "b0", "b1", "c0", "b2"))
        assert "a1" not in stage.handled
        await until(lambda: committed_is(log, 1))
        await asyncio.sleep(0.1)
        assert await committed(log) == 1  # a0 is not done: what is done behind it is not committed past
        stage.blocked["a0"].set()
        await until(lambda: committed_is(log, 6))
    assert [name for name in stage.handled if name[0] == "a"] == ["a0", "a1"]
    assert [name for name in stage.handled if name[0] == "b"] == ["b0", "b1", "b2"]


async def committed_is(log: SqliteLog, offset: int) -> bool:
    return await committed(log) == offset


async def test_unfinished_records_are_handled_again_in_order_after_a_kill(log: SqliteLog) -> None:
    stage = Stage()
    stage.blocked = {"a0": asyncio.Event()}
    async with running(worker(log, stage)) as task:
        await send(log, "a0", "b0", "a1", "b1")
        await until(lambda: handled_and_answered(log, "b0", "b1"))
        await kill(task)
    again = Stage()
    async with running(worker(log, again)):
        await until(lambda: committed_is(log, 4))
    assert again.calls == [["a0"], ["b0"], ["a1"], ["b1"]]  # suspects: alone, in the order of the partition
    assert await answered(log) == statuses("a0", "a1", "b0", "b1")


async def test_suspects_are_tried_together_after_one_kill_and_alone_after_two(
    log: SqliteLog,
) -> None:
    names = ("a0", "a1", "a2", "b0", "a3")
    async with running(worker(log, Stage(), suspects_together=2)) as task:
        await kill(task)
    await send(log, *names)
    stage = Stage()
    stage.blocked = {"a1": asyncio.Event()}
    async with running(worker(log, stage, suspects_together=2)) as task:
        await until(lambda: stage.running == ["a0", "a1"])
        await kill(task)
    again = Stage()
    async with running(worker(log, again, suspects_together=2)):
        await until(lambda: committed_is(log, 5))
    assert again.calls == [["a0"], ["a1"], ["a2"], ["b0"], ["a3"]]
    async with running(worker(log, Stage(), suspects_together=2)) as task:
        await kill(task)
    await send(log, *names)
    last = Stage()
    async with running(worker(log, last, suspects_together=2)):
        await until(lambda: committed_is(log, 10))
    assert last.calls == [["a0", "a1"], ["a2"], ["b0"], ["a3"]]


async def test_sequences_run_concurrently_again_after_the_suspects_of_the_partition(log: SqliteLog) -> None:
    async with running(worker(log, Stage())) as task:
        await kill(task)
    await send(log, "a0", "b0")
    stage = Stage()
    suspect, new = asyncio.Event(), asyncio.Event()
    stage.blocked = {"b0": suspect, "a1": new, "c0": new}
    async with running(worker(log, stage)):
        await until(lambda: stage.running == ["b0"])
        await send(log, "a1", "c0")
        await asyncio.sleep(0.15)  # three polls' time
        assert stage.handled == ["a0", "b0"]
        suspect.set()
        await until(lambda: sorted(stage.running) == ["a1", "c0"])
        new.set()
        await until(lambda: committed_is(log, 4))


async def test_a_new_record_does_not_pass_a_suspect_of_its_sequence_that_waits_to_retry(log: SqliteLog) -> None:
    async with running(worker(log, Stage())) as task:
        await kill(task)
    await send(log, "a0")
    stage = Stage({"a0": [Unavailable("away")] * 1_000})
    async with running(worker(log, stage)):
        await until(lambda: stage.tries("a0") > 1)
        await send(log, "a1")
        tries = stage.tries("a0")
        await until(lambda: stage.tries("a0") > tries + 20)  # meanwhile the worker polls
        assert set(stage.handled) == {"a0"}
        stage.script.clear()
        await until(lambda: committed_is(log, 2))
    assert stage.handled[-2:] == ["a0", "a1"]


async def test_a_sequence_goes_on_in_order_after_errors(log: SqliteLog) -> None:
    names = [f"{sequence}{number}" for number in range(20) for sequence in "abc"]
    stage = Stage({name: [Unavailable("away")] * 3 for name in ("a3", "a4", "b0", "c19")})
    async with running(worker(log, stage, most=8)):
        await send(log, *names)
        await until(lambda: committed_is(log, len(names)))
    assert await answered(log) == statuses(*names)
    for sequence in "abc":
        answers = [it.key for it in await read_all(log, RESULTS)]
        mine = [image(f"{sequence}{number}").image_id for number in range(20)]
        assert [key for key in answers if key in mine] == mine


async def test_a_stop_keeps_the_order_of_a_batch_whose_first_record_waits_to_retry(log: SqliteLog) -> None:
    stage = Stage({"a1": [Unavailable("away")] * 1_000})
    stage.blocked = {"a0": asyncio.Event()}
    it = worker(log, stage)
    async with running(it) as task:
        await send(log, "a0")
        await until(lambda: stage.running == ["a0"])
        await send(log, "a1", "a2")
        stage.blocked["a0"].set()
        await until(lambda: ["a1"] in stage.calls)  # the batch has failed, so each record is tried by itself
        it.stop()
        await asyncio.wait_for(task, 20)
    assert ["a1", "a2"] in stage.calls
    assert ["a2"] not in stage.calls
    assert await answered(log) == statuses("a0")
    again = Stage()
    async with running(worker(log, again)):
        await until(lambda: committed_is(log, 3))
    assert again.calls == [["a1", "a2"]]


async def test_records_that_wait_in_a_sequence_are_not_handled_after_their_epoch(log: WatchedLog) -> None:
    """The new epoch reads them again, and handles each once, in order."""
    stage = Stage()
    stage.blocked = {"a0": asyncio.Event()}
    async with running(worker(log, stage)):
        await send(log, "a0")
        await until(lambda: stage.running == ["a0"])
        await send(log, "a1", "a2")
        log.looked = 0
        other = await log.consumer(Stage.name, [IMAGES_RECEIVED], member="two")
        await until(lambda: log.looked > 0)  # it begins the new epoch, and waits for a0 to end
        stage.blocked["a0"].set()
        await until(lambda: committed_is(log, 3))
        await other.close()
    assert stage.handled == ["a0", "a0", "a1", "a2"]


async def test_a_backlog_of_one_sequence_leaves_room_for_other_partitions(tmp_path: Path) -> None:
    """A directory whose gallery is being loaded, with more records behind it than the worker may have in flight."""
    log = SqliteLog(tmp_path / "wide.db")
    await log.create_topics([TopicSpec(name, 2) for name in (IMAGES_RECEIVED, RESULTS, DEAD_LETTERS)])
    slow, quick = (next(key for key in "abcd" if partition_of(key, 2) == partition) for partition in (0, 1))
    backlog = [f"{slow}{number}" for number in range(300)]
    await send(log, *backlog, partition_key=slow)
    stage = Stage()
    gate = asyncio.Event()
    stage.blocked = dict.fromkeys(backlog, gate)
    async with running(worker(log, stage, most=64)):
        await until(lambda: len(stage.running) > 0)
        await asyncio.sleep(0.15)  # three polls' time to fill up
        await send(log, f"{quick}0", partition_key=quick)
        await until(lambda: f"{quick}0" in stage.handled)
        assert len(stage.running) < 64
        gate.set()
        await until(lambda: handled_and_answered(log, *backlog, f"{quick}0"))
    assert [name for name in stage.handled if name[0] == slow] == backlog
    await log.close()
