"""Where order counts: several sequences in one partition, each in order, none of them held up by another."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from backends.log import Record, TopicSpec
from backends.log_sqlite import SqliteLog
from schemas.errors import Unavailable
from schemas.records import ImageReceived
from stream.topics import DEAD_LETTERS, IMAGES_RECEIVED, RESULTS
from stream.worker import Worker
from tests.unit.stages import Stage, answered, image, kill, quick_and_quiet, running, send, statuses, until, values


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create_topics([TopicSpec(name, 1) for name in (IMAGES_RECEIVED, RESULTS, DEAD_LETTERS)])
    yield log
    await log.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with quick_and_quiet(monkeypatch):
        yield


def worker(log: SqliteLog, stage: Stage, *, most: int = 64) -> Worker:
    """The sequence of an image is the first letter of its name."""
    return Worker(
        log,
        stage,
        [IMAGES_RECEIVED],
        sequence_of=lambda record: ImageReceived.decode(record.value).filename[0],
        member="one",
        max_in_flight=most,
    )


async def committed(log: SqliteLog) -> int:
    (end,), (lag,) = (await log.end_offsets(IMAGES_RECEIVED)).values(), (await log.lag(Stage.name, IMAGES_RECEIVED)).values()
    return end - lag


async def handled_and_answered(log: SqliteLog, *names: str) -> bool:
    return await answered(log) == statuses(*names)


async def test_a_sequence_that_is_held_up_holds_up_no_other(log: SqliteLog) -> None:
    stage = Stage()
    stage.blocked = {"a0": asyncio.Event()}
    async with running(worker(log, stage)):
        await send(log, "b0", "a0", "b1", "a1", "b2", "c0")
        await until(lambda: handled_and_answered(log, "b0", "b1", "b2", "c0"))
        await send(log, "b3")
        await until(lambda: handled_and_answered(log, "b0", "b1", "b2", "c0", "b3"))
        assert "a1" not in stage.handled
        await until(lambda: committed_is(log, 1))
        await asyncio.sleep(0.1)
        assert await committed(log) == 1  # a0 is not done: what is done behind it is not committed past
        stage.blocked["a0"].set()
        await until(lambda: committed_is(log, 7))
    assert [name for name in stage.handled if name[0] == "a"] == ["a0", "a1"]
    assert [name for name in stage.handled if name[0] == "b"] == ["b0", "b1", "b2", "b3"]


async def committed_is(log: SqliteLog, offset: int) -> bool:
    return await committed(log) == offset


async def test_what_is_not_done_is_handled_again_after_a_kill_and_keeps_its_order(log: SqliteLog) -> None:
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


async def test_after_the_suspects_of_a_partition_its_sequences_run_beside_each_other_again(log: SqliteLog) -> None:
    async with running(worker(log, Stage())) as task:
        await kill(task)
    await send(log, "a0", "b0")
    stage = Stage()
    gate = asyncio.Event()
    stage.blocked = dict.fromkeys(("b0", "a1", "b1"), gate)
    async with running(worker(log, stage)):
        await until(lambda: stage.running == ["b0"])
        await send(log, "a1", "b1")
        await asyncio.sleep(0.15)  # three polls' time
        assert stage.running == ["b0"]
        assert stage.most_running == 1
        gate.set()
        gate = asyncio.Event()
        stage.blocked = dict.fromkeys(("a2", "b2"), gate)
        await send(log, "a2", "b2")
        await until(lambda: sorted(stage.running) == ["a2", "b2"])
        gate.set()
        await until(lambda: committed_is(log, 6))


async def test_a_sequence_goes_on_in_order_after_errors(log: SqliteLog) -> None:
    names = [f"{sequence}{number}" for number in range(20) for sequence in "abc"]
    stage = Stage({name: [Unavailable("away")] * 3 for name in ("a3", "a4", "b0", "c19")})
    async with running(worker(log, stage, most=8)):
        await send(log, *names)
        await until(lambda: committed_is(log, len(names)))
    assert await answered(log) == statuses(*names)
    for sequence in "abc":
        answers = [it.key for it in await values(log, RESULTS)]
        mine = [image(f"{sequence}{number}").image_id for number in range(20)]
        assert [key for key in answers if key in mine] == mine


async def test_a_sequence_whose_partition_is_lost_is_handed_over_no_further(log: SqliteLog) -> None:
    """The partition comes back in a later epoch: its records are read again, each is done once in that epoch."""
    stage = Stage()
    gate = asyncio.Event()
    stage.blocked = {"a0": gate}
    it = worker(log, stage)
    async with running(it):
        await send(log, "a0", "a1", "a2")
        await until(lambda: stage.running == ["a0"])
        other = await log.consumer(Stage.name, [IMAGES_RECEIVED], member="two")
        await other.poll(1, 0)
        await until(lambda: it._epoch == -1)
        gate.set()
        await until(lambda: len(stage.assignments) == 2)
        assert stage.handled == ["a0"]
        await other.close()
        await until(lambda: committed_is(log, 3))
    assert [name for name in stage.handled[1:]] == ["a0", "a1", "a2"]
