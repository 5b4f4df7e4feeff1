"""A topic that represents a state is read from its start, and followed as it grows, even across an outage."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
import structlog.testing

from backends.log import NewRecord, Reader, Record
from backends.sqlite.log import SqliteLog
from schemas.errors import Unavailable
from stream import topic_follower as topic_follower_module
from stream.topic_follower import RECORDS_PER_POLL, TopicFollower
from stream.topics import MODELS, TOPICS
from tests.unit.stream.stages import kill, until


class Words(TopicFollower):
    """The keys of all records, in order."""

    def __init__(self, log: SqliteLog) -> None:
        super().__init__(log, MODELS)
        self.taken: list[str] = []

    def apply(self, record: Record) -> None:
        self.taken.append(record.key)


class AwayReader(Reader):
    def __init__(self, log: "AwayLog", inner: Reader) -> None:
        self.log, self.inner = log, inner

    async def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        self.log.polls += 1
        if self.log.away:
            raise Unavailable("the log is away")
        return await self.inner.poll(max_records, timeout_s)

    def next_offsets(self) -> Mapping[int, int]:
        return self.inner.next_offsets()

    async def close(self) -> None:
        await self.inner.close()


class AwayLog(SqliteLog):
    """A log that cannot be read while `away` is set."""

    away = False
    polls = 0

    async def reader(
        self, topic: str, *, at: Literal["start", "end"] | Mapping[int, int], partitions: Collection[int] | None = None
    ) -> Reader:
        return AwayReader(self, await super().reader(topic, at=at, partitions=partitions))


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[AwayLog]:
    log = AwayLog(tmp_path / "log.db")
    await log.create_topics(TOPICS)
    yield log
    await log.close()


@pytest.fixture
async def elsewhere(log: AwayLog, tmp_path: Path) -> AsyncIterator[SqliteLog]:
    """The same log as another process has it."""
    elsewhere = SqliteLog(tmp_path / "log.db")
    yield elsewhere
    await elsewhere.close()


async def say(log: SqliteLog, words: Sequence[str]) -> None:
    await log.append([NewRecord(MODELS, word, b"{}") for word in words])


@asynccontextmanager
async def started(log: SqliteLog) -> AsyncIterator[Words]:
    words = Words(log)
    try:
        await asyncio.wait_for(words.start(), 20)
        yield words
    finally:
        await words.close()


@asynccontextmanager
async def running(words: Words) -> AsyncIterator[None]:
    task = asyncio.create_task(words.run())
    try:
        yield
        assert not task.done()
    finally:
        await kill(task)


@pytest.mark.parametrize("count", [0, 1, RECORDS_PER_POLL, 2 * RECORDS_PER_POLL + 1])
async def test_start_reads_all_existing_records(log: AwayLog, count: int) -> None:
    said = [f"{number}" for number in range(count)]
    await say(log, said)
    async with started(log) as words:
        assert words.taken == said


async def test_start_does_not_poll_an_empty_topic(log: AwayLog) -> None:
    async with started(log):
        assert log.polls == 0


async def test_start_takes_what_compaction_has_left(log: AwayLog) -> None:
    for _ in range(3):
        await say(log, ["first", "second"])
    await log.enforce_retention()
    async with started(log) as words:
        assert words.taken == ["first", "second"]


async def test_refresh_sees_what_another_process_appended(log: AwayLog, elsewhere: SqliteLog) -> None:
    await say(log, ["first"])
    async with started(log) as words:
        for number in range(20):
            await say(elsewhere, [f"{number}"])
            assert len(words.taken) == 1 + number
            await words.refresh()
            assert words.taken[-1] == f"{number}"


async def test_refresh_during_run_takes_each_record_once(log: AwayLog, elsewhere: SqliteLog) -> None:
    async with started(log) as words, running(words):
        for number in range(20):
            await say(elsewhere, [f"{number}"])
            await asyncio.gather(words.refresh(), words.refresh())
            assert words.taken == [f"{each}" for each in range(number + 1)]


async def test_run_reads_new_records(log: AwayLog, elsewhere: SqliteLog) -> None:
    async with started(log) as words, running(words):
        said = [f"{number}" for number in range(30)]
        for begin in range(0, 30, 3):
            await say(elsewhere, said[begin : begin + 3])
            await until(lambda begin=begin: len(words.taken) == begin + 3)
        assert words.taken == said


async def test_run_goes_on_after_an_outage(log: AwayLog, elsewhere: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_follower_module, "LOG_AWAY_S", 0.01)
    await say(log, ["before"])
    with structlog.testing.capture_logs() as logs:
        async with started(log) as words, running(words):
            log.away = True
            await until(lambda: len(logs) >= 3)
            await say(elsewhere, ["meanwhile"])
            log.away = False
            await say(elsewhere, ["after"])
            await until(lambda: words.taken == ["before", "meanwhile", "after"])
    assert {(it["event"], it["topic"], it["reason"]) for it in logs} == {
        ("following failed", MODELS, "the log is away")
    }


async def test_start_raises_unavailable_while_the_log_is_away_and_refresh_recovers(log: AwayLog) -> None:
    await say(log, ["first"])
    words = Words(log)
    log.away = True
    with pytest.raises(Unavailable):
        await words.start()
    log.away = False
    await words.refresh()
    assert words.taken == ["first"]
    await words.close()
