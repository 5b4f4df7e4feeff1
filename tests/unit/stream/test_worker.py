"""The worker loop on a real log, with small stages that the tests control."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from backends.log import CommittedOffset, Consumer, NewRecord, Record, TopicPartition, TopicSpec
from backends.sqlite.log import SqliteLog
from schemas.answers import Problem
from schemas.errors import FacestreamError, MissingRight, NoFace, StorageFull, Unavailable, UnreadableRecord
from schemas.records import ImageReceived
from stream import failures as failures_module
from stream.dead_letters import read_contents
from stream.erase.erasures import position_of
from stream.topics import DEAD_LETTERS, IMAGES_RECEIVED, RESULTS
from stream.worker import Worker
from tests.unit.delegating import DelegatingConsumer
from tests.unit.stream.stages import (
    PATIENCE_S,
    Stage,
    answered,
    answers,
    dead_letters,
    image,
    kill,
    quick_and_quiet,
    read_all,
    running,
    send,
    statuses,
    until,
)

PARTITIONS = 4
KEYS = "abde"  # each goes to a partition of its own
CHILD = Path(__file__).with_name("crashing_worker.py")
ROOT = Path(__file__).parents[3]


class AwayLog(SqliteLog):
    """A log that cannot append while `error` is set."""

    error: FacestreamError | None = None
    refused = 0

    async def append(self, records: Sequence[NewRecord]) -> list[TopicPartition]:
        if self.error is not None:
            self.refused += 1
            raise self.error
        return await super().append(records)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[AwayLog]:
    log = AwayLog(tmp_path / "log.db")
    topics = (IMAGES_RECEIVED, RESULTS, DEAD_LETTERS)
    await log.create_topics([TopicSpec(name, PARTITIONS) for name in topics])
    yield log
    await log.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with quick_and_quiet(monkeypatch):
        yield


async def tried_again(log: SqliteLog, name: str) -> ImageReceived:
    """The event as a dead letter has it: with the time at which it was received, and where."""
    (record,) = [record for record in await read_all(log, IMAGES_RECEIVED) if record.key == image(name).image_id]
    return image(name).model_copy(update={"received_at": record.timestamp, "origin": position_of(record)})


async def lag(log: SqliteLog) -> int:
    return sum((await log.lag(Stage.name, IMAGES_RECEIVED)).values())


def worker(
    log: SqliteLog, stage: Stage, *, ordered: bool, member: str = "one", most: int = 16, give_up_after_s: float = 900
) -> Worker:
    return Worker(
        log,
        stage,
        [IMAGES_RECEIVED],
        member=member,
        sequence_of=(lambda _: "") if ordered else None,
        max_in_flight=most,
        give_up_after_s=give_up_after_s,
    )


async def crashed(log: SqliteLog, *, ordered: bool = False) -> None:
    """Leaves the group in the state of a worker that was killed just after its start."""
    async with running(worker(log, Stage(), ordered=ordered)) as task:
        await kill(task)


BOTH = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])


# What is handed over, and when.


async def test_an_ordered_worker_keeps_the_order_of_a_partition_and_hands_over_batches(log: AwayLog) -> None:
    names = [f"{partition}-{number}" for number in range(30) for partition in KEYS[:3]]
    stage = Stage()
    stage.blocked = {name: asyncio.Event() for name in ("a-0", "b-0", "d-0")}
    async with running(worker(log, stage, ordered=True, most=200)) as _:
        await send(log, "a-0", partition_key="a")
        await send(log, "b-0", partition_key="b")
        await send(log, "d-0", partition_key="d")
        await until(lambda: len(stage.running) == 3)
        for name in names[3:]:
            await send(log, name, partition_key=name[0])
        for event in stage.blocked.values():
            event.set()
        await until(lambda: len(stage.handled) == len(names))
    for partition in KEYS[:3]:
        assert [name for name in stage.handled if name[0] == partition] == [
            f"{partition}-{number}" for number in range(30)
        ]
    assert max(len(batch) for batch in stage.calls) > 5
    assert await answered(log) == statuses(*names)


async def test_an_ordered_worker_handles_one_batch_of_a_partition_at_a_time(log: AwayLog) -> None:
    stage = Stage()
    stage.blocked = {"0": asyncio.Event()}
    async with running(worker(log, stage, ordered=True)):
        await send(log, "0", partition_key="a")
        await until(lambda: stage.running == ["0"])
        await send(log, "1", "2", partition_key="a")
        await send(log, "other", partition_key="b")
        await until(lambda: "other" in stage.handled)
        assert stage.calls == [["0"], ["other"]]
        stage.blocked["0"].set()
        await until(lambda: len(stage.handled) == 4)


async def test_an_unordered_worker_handles_many_at_once_but_no_more_than_it_may(log: AwayLog) -> None:
    names = [f"{number}" for number in range(30)]
    stage = Stage()
    gate = asyncio.Event()
    stage.blocked = dict.fromkeys(names, gate)
    async with running(worker(log, stage, ordered=False, most=8)):
        await send(log, *names)
        await until(lambda: len(stage.running) == 8)
        await asyncio.sleep(0.1)  # two polls' time to take more than it may
        assert len(stage.handled) == 8
        gate.set()
        await until(lambda: len(stage.handled) == len(names))
    assert stage.most_running == 8
    assert await answered(log) == statuses(*names)


# Commits.


@BOTH
async def test_a_commit_goes_past_a_record_only_when_all_before_it_are_done(log: AwayLog, ordered: bool) -> None:
    names = [f"{number}" for number in range(10)]
    stage = Stage()
    stage.blocked = {"3": asyncio.Event()}
    it = worker(log, stage, ordered=ordered)
    async with running(it) as task:
        await send(log, *names[:3], partition_key="a")
        await until(lambda: eventually(log, answers=3, lag_=0))
        await send(log, *names[3:], partition_key="a")
        await until(lambda: "3" in stage.running)
        before = 3 if ordered else 9
        await until(lambda: eventually(log, answers=before, lag_=7))
        await asyncio.sleep(0.1)
        assert await lag(log) == 7
        await kill(task)
    again = Stage()
    async with running(worker(log, again, ordered=ordered)):
        await until(lambda: len(again.handled) == 7)
    assert sorted(again.handled) == names[3:]
    assert await answered(log) == statuses(*names)
    assert await lag(log) == 0


async def eventually(log: SqliteLog, *, answers: int, lag_: int) -> bool:
    return sum((await log.end_offsets(RESULTS)).values()) == answers and await lag(log) == lag_


@BOTH
async def test_a_stop_finishes_and_commits_what_is_under_way(log: AwayLog, ordered: bool) -> None:
    stage = Stage()
    stage.blocked = {"a": asyncio.Event()}
    it = worker(log, stage, ordered=ordered)
    async with running(it) as task:
        await send(log, "a")
        await until(lambda: stage.running == ["a"])
        it.stop()
        await asyncio.sleep(0.1)
        assert not task.done()
        stage.blocked["a"].set()
        await asyncio.wait_for(task, PATIENCE_S)
    assert await answered(log) == statuses("a")
    assert await lag(log) == 0


async def test_a_stop_leaves_records_that_wait_to_retry_to_the_next_start(
    log: AwayLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures_module, "BACKOFF_FIRST_S", 1_000)
    monkeypatch.setattr(failures_module, "BACKOFF_MOST_S", 1_000)
    stage = Stage({"flaky": [Unavailable("away")]})
    it = worker(log, stage, ordered=False)
    async with running(it) as task:
        await send(log, "flaky", "good")
        await until(lambda: eventually(log, answers=1, lag_=1))
        it.stop()
        await asyncio.wait_for(task, PATIENCE_S)
    assert await answered(log) == statuses("good")
    async with running(worker(log, stage, ordered=False)):
        await until(lambda: eventually(log, answers=2, lag_=0))
    assert await answered(log) == statuses("good", "flaky")


@BOTH
async def test_records_are_handled_alone_after_a_crash_but_not_after_a_clean_stop(log: AwayLog, ordered: bool) -> None:
    """Two partitions each: the records of both run side by side only where no crash is suspected."""

    async def most_at_once() -> int:
        stage = Stage()
        await send(log, f"{uuid.uuid4()}", partition_key="a")
        await send(log, f"{uuid.uuid4()}", partition_key="b")
        gate = asyncio.Event()
        stage.blocked = {ImageReceived.decode(it.value).filename: gate for it in await read_all(log, IMAGES_RECEIVED)}
        async with running(worker(log, stage, ordered=ordered)) as task:
            await until(lambda: len(stage.running) > 0)
            await asyncio.sleep(0.15)  # three polls' time
            most = len(stage.running)
            await kill(task)
        return most

    async with running(worker(log, Stage(), ordered=ordered)) as task:
        await send(log, "first", partition_key="a")
        await send(log, "second", partition_key="b")
        await until(lambda: eventually(log, answers=2, lag_=0))
    assert task.done()
    assert await most_at_once() == 2
    assert await most_at_once() == 1


# Errors.


@BOTH
async def test_a_temporary_error_is_retried_while_other_records_continue(log: AwayLog, ordered: bool) -> None:
    stage = Stage({"flaky": [Unavailable("away"), StorageFull("full"), Unavailable("away"), Unavailable("away")]})
    async with running(worker(log, stage, ordered=ordered, most=2)):
        await send(log, "flaky", partition_key="a")
        await until(lambda: stage.tries("flaky") > 0)
        await send(log, *(f"{number}" for number in range(9)), partition_key="b")
        await until(lambda: eventually(log, answers=10, lag_=0))
    assert stage.tries("flaky") == 5
    assert await answered(log) == statuses("flaky", *(f"{number}" for number in range(9)))
    assert await dead_letters(log) == []


async def test_records_that_wait_to_retry_leave_room_for_others(log: AwayLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures_module, "BACKOFF_FIRST_S", 1_000)
    monkeypatch.setattr(failures_module, "BACKOFF_MOST_S", 1_000)
    flaky = [f"flaky-{number}" for number in range(6)]
    stage = Stage({name: [Unavailable("away")] for name in flaky})
    async with running(worker(log, stage, ordered=False, most=2)):
        await send(log, *flaky, "good")
        await until(lambda: eventually_answered(log, "good"))
    assert await answered(log) == statuses("good")


async def eventually_answered(log: SqliteLog, name: str) -> bool:
    return image(name).image_id in await answered(log)


@BOTH
async def test_an_error_of_the_image_itself_is_answered_at_once(log: AwayLog, ordered: bool) -> None:
    stage = Stage({"faceless": [NoFace("no face was found", faces=[])] * 9})
    async with running(worker(log, stage, ordered=ordered)):
        await send(log, "faceless", "good")
        await until(lambda: eventually(log, answers=2, lag_=0))
    assert await answered(log) == statuses("good") | statuses("faceless", status=422)
    (bad,) = [it for it in await answers(log) if it.status == 422]
    assert isinstance(bad.body, Problem)
    assert bad.body.code == "no_face"
    assert bad.body.detail == "no face was found"
    assert bad.body.image_id == image("faceless").image_id
    assert stage.tries("faceless") <= 2  # once alone, and once in a batch
    assert await dead_letters(log) == []


@BOTH
async def test_a_defect_becomes_a_dead_letter_and_an_answer_after_three_tries(log: AwayLog, ordered: bool) -> None:
    stage = Stage({"broken": [RuntimeError("a defect")] * 9})
    async with running(worker(log, stage, ordered=ordered)):
        await send(log, "broken")
        await until(lambda: eventually(log, answers=1, lag_=0))
        await send(log, "good")
        await until(lambda: eventually(log, answers=2, lag_=0))
    assert stage.tries("broken") == 3
    assert await answered(log) == statuses("good") | statuses("broken", status=500)
    (letter,) = await dead_letters(log)
    assert letter.event == await tried_again(log, "broken")
    failure = letter.failure
    assert (failure.code, failure.attempts, failure.stage) == ("processing_failed", 3, "stage")
    assert failure.exception == "schemas.errors.ProcessingFailed"
    assert "a defect" not in failure.reason


@BOTH
async def test_an_unreadable_record_becomes_a_dead_letter_and_others_continue(log: AwayLog, ordered: bool) -> None:
    stage = Stage()
    async with running(worker(log, stage, ordered=ordered)):
        hostile = [None, b"", b"\xff\xfe", b"[" * 10_000, b'{"version": 2}']
        await log.append([NewRecord(IMAGES_RECEIVED, f"bad-{i}", value, "a") for i, value in enumerate(hostile)])
        await send(log, "good", partition_key="a")
        await until(lambda: eventually(log, answers=1, lag_=0))
    letters = await dead_letters(log)
    values = [it.value for it in await read_contents(log, letters)]
    assert {(it.failure.offset, it.failure.code, value) for it, value in zip(letters, values, strict=True)} == {
        (i, "unreadable_record", value) for i, value in enumerate(hostile)
    }
    assert {it.event for it in letters} == {None}
    assert await answered(log) == statuses("good")


async def test_a_dead_letter_of_a_record_that_is_not_answered_says_what_went_wrong(log: AwayLog) -> None:
    class Nobody(Stage):
        def event_of(self, record: Record) -> ImageReceived:
            raise UnreadableRecord("this is not answered")

    stage = Nobody({"broken": [RuntimeError("a defect")] * 3})
    async with running(worker(log, stage, ordered=True)):
        await send(log, "broken")
        await until(lambda: eventually(log, answers=0, lag_=0))
    (letter,) = await dead_letters(log)
    assert (letter.failure.code, letter.failure.attempts) == ("processing_failed", 3)


@pytest.mark.parametrize(
    "error", [NoFace("none"), RuntimeError("a defect"), Unavailable("away")], ids=lambda it: type(it).__name__
)
async def test_one_bad_record_of_a_batch_does_not_fail_the_others(log: AwayLog, error: Exception) -> None:
    names = [f"{number}" for number in range(8)]
    stage = Stage({"4": [error] * 50})
    stage.blocked = {"first": asyncio.Event()}
    async with running(worker(log, stage, ordered=True, give_up_after_s=0.05)):
        await send(log, "first", partition_key="a")
        await until(lambda: stage.running == ["first"])
        await send(log, *names, partition_key="a")
        stage.blocked["first"].set()
        await until(lambda: eventually(log, answers=9, lag_=0))
    expected = getattr(error, "status", 500)
    assert await answered(log) == statuses("first", *names) | statuses("4", status=expected)
    assert names in stage.calls


@BOTH
async def test_a_record_that_fails_for_too_long_is_given_up_if_the_store_is_available(
    log: AwayLog, ordered: bool
) -> None:
    stage = Stage({"stuck": [Unavailable("a bad sector")] * 1_000})
    async with running(worker(log, stage, ordered=ordered, give_up_after_s=0.05)):
        await send(log, "stuck", "good", partition_key="a")
        await until(lambda: eventually(log, answers=2, lag_=0))
    assert stage.probes > 0
    assert stage.tries("stuck") > 2
    assert await answered(log) == statuses("good") | statuses("stuck", status=503)
    (letter,) = await dead_letters(log)
    assert (letter.event, letter.failure.code) == (await tried_again(log, "stuck"), "unavailable")


async def test_a_failed_batch_without_time_to_retry_is_given_up_record_by_record(log: AwayLog) -> None:
    stage = Stage({"1": [Unavailable("away")] * 50})
    stage.blocked = {"first": asyncio.Event()}
    async with running(worker(log, stage, ordered=True, give_up_after_s=0)):
        await send(log, "first", partition_key="a")
        await until(lambda: stage.running == ["first"])
        await send(log, "0", "1", "2", partition_key="a")
        stage.blocked["first"].set()
        await until(lambda: eventually(log, answers=4, lag_=0))
    assert await answered(log) == statuses("first", "0", "2") | statuses("1", status=503)


@BOTH
async def test_a_record_is_retried_without_end_while_the_store_is_unavailable(log: AwayLog, ordered: bool) -> None:
    stage = Stage({"waiting": [Unavailable("away")] * 1_000})
    stage.store_away = True
    async with running(worker(log, stage, ordered=ordered, give_up_after_s=0.02)):
        await send(log, "waiting")
        await until(lambda: stage.probes >= 5)
        assert await answers(log) == []
        stage.script.clear()
        await until(lambda: eventually(log, answers=1, lag_=0))
    assert await answered(log) == statuses("waiting")
    assert await dead_letters(log) == []


@pytest.mark.parametrize("error", [StorageFull("full"), MissingRight("Read")], ids=["full", "right"])
async def test_a_full_store_or_a_missing_right_is_waited_for_without_end(log: AwayLog, error: FacestreamError) -> None:
    stage = Stage({"waiting": [error] * 8})
    async with running(worker(log, stage, ordered=False, give_up_after_s=0)):
        await send(log, "waiting")
        await until(lambda: eventually(log, answers=1, lag_=0))
    assert stage.tries("waiting") == 9
    assert await answered(log) == statuses("waiting")


# The log itself.


@BOTH
@pytest.mark.parametrize("error", [Unavailable("away"), StorageFull("full")], ids=["away", "full"])
async def test_nothing_is_lost_while_the_log_takes_no_appends(
    log: AwayLog, error: FacestreamError, ordered: bool
) -> None:
    names = [f"{number}" for number in range(40)]
    async with running(worker(log, Stage(), ordered=ordered, most=8)):
        await send(log, *names)
        log.error = error
        await until(lambda: log.refused > 10)
        log.error = None
        await until(lambda: eventually(log, answers=40, lag_=0))
    assert await answered(log) == statuses(*names)


@BOTH
async def test_a_stop_does_not_wait_for_a_log_that_is_away(log: AwayLog, ordered: bool) -> None:
    it = worker(log, Stage(), ordered=ordered)
    async with running(it) as task:
        await send(log, "a")
        log.error = Unavailable("away")
        await until(lambda: log.refused > 0)
        it.stop()
        await asyncio.wait_for(task, PATIENCE_S)
    log.error = None
    assert await lag(log) == 1
    async with running(worker(log, Stage(), ordered=ordered)):
        await until(lambda: eventually(log, answers=1, lag_=0))


async def test_an_output_that_the_log_refuses_is_answered_with_an_error(log: AwayLog) -> None:
    class Huge(Stage):
        async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
            outputs = await super().handle(records)
            huge = b" " * 9_000_000
            return [NewRecord(it.topic, it.key, huge if self.calls[-1] == ["huge"] else it.value) for it in outputs]

    async with running(worker(log, Huge(), ordered=False)):
        await send(log, "huge", "good")
        await until(lambda: eventually(log, answers=2, lag_=0))
    assert await answered(log) == statuses("good") | statuses("huge", status=400)


class AwayConsumer(DelegatingConsumer):
    """A consumer whose commits fail while its log has `commits_fail`."""

    def __init__(self, log: "AwayCommits", inner: Consumer) -> None:
        super().__init__(inner)
        self.log = log

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        if self.log.commits_fail:
            self.log.refused += 1
            raise StorageFull("full")
        await super().commit(offsets)


class AwayCommits(AwayLog):
    commits_fail = True

    async def consumer(self, group: str, topics: Sequence[str], *, member: str, linger_s: float = 0.0) -> Consumer:
        return AwayConsumer(self, await super().consumer(group, topics, member=member, linger_s=linger_s))

    async def end_offsets(self, topic: str) -> dict[int, int]:
        if self.commits_fail and topic == IMAGES_RECEIVED:
            self.refused += 1
            if self.refused < 3:
                raise Unavailable("away")
        return await super().end_offsets(topic)


async def test_a_worker_that_starts_while_the_log_is_full_waits_for_room(log: AwayLog, tmp_path: Path) -> None:
    """The suspects of a crash are noted before they are tried; where that fails, they are not tried yet."""
    await crashed(log)
    await send(log, "suspect")
    full = AwayCommits(tmp_path / "log.db")
    stage = Stage()
    it = worker(full, stage, ordered=False)
    task = asyncio.create_task(it.run())
    await until(lambda: full.refused >= 6)
    assert stage.handled == []
    full.commits_fail = False
    await until(lambda: eventually(log, answers=1, lag_=0))
    it.stop()
    await task
    await full.close()
    assert await answered(log) == statuses("suspect")


# Crashes.


@BOTH
async def test_a_suspect_that_waits_for_another_try_is_not_lost_when_the_next_one_is_tried(
    log: AwayLog, ordered: bool
) -> None:
    names = ["waits", "next", "last"]
    stage = Stage({"waits": [Unavailable("away")] * 1_000})
    await crashed(log)
    await send(log, *names, partition_key="a")
    async with running(worker(log, stage, ordered=ordered)) as task:
        await until(lambda: stage.tries("waits") > 3)
        await kill(task)
    assert await lag(log) == 3
    again = Stage()
    async with running(worker(log, again, ordered=ordered)):
        await until(lambda: eventually(log, answers=3, lag_=0))
    assert again.calls == [["waits"], ["next"], ["last"]]


@BOTH
async def test_a_new_record_is_not_handled_beside_a_suspect(log: AwayLog, ordered: bool) -> None:
    """Both come in one poll; if the new one ends the process the suspect must not be blamed."""
    await crashed(log)
    await send(log, "suspect", partition_key="a")
    stage = Stage()
    stage.blocked = {"suspect": asyncio.Event()}
    it = worker(log, stage, ordered=ordered)
    assigned = stage.on_assignment

    async def assigned_then_send(assignment: Mapping[TopicPartition, CommittedOffset]) -> None:
        await assigned(assignment)
        await send(log, "new", partition_key="b")

    stage.on_assignment = assigned_then_send  # type: ignore[method-assign]
    async with running(it):
        await until(lambda: len(stage.running) > 0)
        await asyncio.sleep(0.1)
        assert stage.running == ["suspect"]
        stage.blocked["suspect"].set()
        await until(lambda: eventually(log, answers=2, lag_=0))
    assert stage.calls == [["suspect"], ["new"]]


def run_child(folder: Path, mode: str, *, ordered: bool) -> int:
    """Runs crashing_worker.py until all of the log in `folder` is committed, or it crashes. Returns its exit code."""
    command = [sys.executable, str(CHILD), str(folder), mode, "ordered" if ordered else "unordered"]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60).returncode


@BOTH
@pytest.mark.parametrize("moment", ["in handle", "before append", "after append", "after commit"])
async def test_a_crash_changes_no_result(log: AwayLog, tmp_path: Path, moment: str, ordered: bool) -> None:
    names = [f"{number}" for number in range(12)] + ["deadly", *(f"{number}" for number in range(12, 20))]
    await send(log, *names)
    first = await asyncio.to_thread(run_child, tmp_path, moment, ordered=ordered)
    assert first == 77
    before = await answered(log)
    assert (image("deadly").image_id in before) == moment.startswith("after")
    second = await asyncio.to_thread(run_child, tmp_path, moment, ordered=ordered)
    assert second == 0
    assert await lag(log) == 0
    # The result of a run without a crash: each image is answered with its name. Some may be answered twice, with equal
    # answers.
    assert {(it.image_id, it.status, it.body.members()["filename"]) for it in await answers(log)} == {
        (image(name).image_id, 200, name) for name in names
    }
    assert await dead_letters(log) == []


@BOTH
async def test_a_record_that_kills_three_times_is_a_dead_letter_and_the_others_are_answered(
    log: AwayLog, tmp_path: Path, ordered: bool
) -> None:
    names = [f"{number}" for number in range(6)] + ["killer", *(f"{number}" for number in range(6, 10))]
    await crashed(log)
    await send(log, *names)
    exits = []
    while 0 not in exits:
        exits.append(await asyncio.to_thread(run_child, tmp_path, "killer", ordered=ordered))
        assert len(exits) < 8
    kills = exits[:-1]
    assert set(kills) == {-9}
    assert len(kills) == 3
    assert await answered(log) == statuses(*names) | statuses("killer", status=500)
    (letter,) = await dead_letters(log)
    assert letter.event == await tried_again(log, "killer")
    assert (letter.failure.code, letter.failure.attempts) == ("processing_failed", 3)


# Several workers.


@BOTH
async def test_no_record_is_lost_when_workers_join_and_leave(log: AwayLog, ordered: bool) -> None:
    names = [f"{number}" for number in range(200)]
    one, two = Stage(), Stage()
    first = worker(log, one, ordered=ordered, member="one")
    second = worker(log, two, ordered=ordered, member="two")
    async with running(first):
        await send(log, *names[:50])
        async with running(second):
            await send(log, *names[50:100])
            await until(lambda: two.assignments != [] and len(one.assignments) == 2)
            await send(log, *names[100:150])
            await until(lambda: eventually_all(log, 150))
        await send(log, *names[150:])
        await until(lambda: eventually_all(log, 200))
        await until(lambda: eventually_lag(log, 0))
    assert set(one.handled) | set(two.handled) == set(names)
    assert two.handled != []
    owned = [set(it.assignments[-1]) for it in (two,)] + [set(one.assignments[1])]
    assert owned[0] | owned[1] == {TopicPartition(IMAGES_RECEIVED, each) for each in range(PARTITIONS)}
    assert owned[0] & owned[1] == set()
    assert await answered(log) == statuses(*names)


async def eventually_all(log: SqliteLog, count: int) -> bool:
    return len(await answered(log)) == count


async def eventually_lag(log: SqliteLog, expected: int) -> bool:
    return await lag(log) == expected


@BOTH
async def test_records_of_lost_partitions_are_neither_handled_nor_committed(log: AwayLog, ordered: bool) -> None:
    """The old owner is in the middle of a batch while another member takes half of its partitions."""
    old, new = Stage(), Stage()
    gate = asyncio.Event()
    old.blocked = {f"{key}0": gate for key in KEYS}
    new.blocked = {f"{key}0": asyncio.Event() for key in KEYS}
    it = worker(log, old, ordered=ordered, member="z", most=100)
    async with running(it) as task:
        for key in KEYS:
            await send(log, f"{key}0", partition_key=key)
        await until(lambda: len(old.running) == 4)
        if ordered:
            for key in KEYS:
                await send(log, *(f"{key}{number}" for number in range(1, 5)), partition_key=key)
            await asyncio.sleep(0.15)  # polled, and waiting behind the first of its partition
        other = worker(log, new, ordered=ordered, member="a")
        async with running(other):
            await until(lambda: new.assignments != [])
            await until(lambda: len(new.running) > 0)
            gate.set()
            await until(lambda: len(old.assignments) == 2)
            mine = {at.partition for at in old.assignments[-1]}
            for event in new.blocked.values():
                event.set()
            await until(lambda: eventually_all(log, 20 if ordered else 4))
            await until(lambda: eventually_lag(log, 0))
            assert not task.done()
    lost = {it.key for it in await read_all(log, IMAGES_RECEIVED) if it.partition not in mine}
    again = [name for name in old.handled if image(name).image_id in lost and name[1] != "0"]
    assert again == []
    assert {image(name).image_id for name in new.handled} == lost
