"""Waiting requests get the answers from their replica's partition of `results`."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import Literal

import pytest
import structlog.testing

from backends.log import NewRecord, Reader, Record, TopicSpec
from backends.sqlite.log import SqliteLog
from ingest import replies as replies_module
from ingest.replies import Replies
from schemas.errors import InvalidRequest, Unavailable
from schemas.records import Answer
from stream.topics import RESULTS
from tests.answers import detected, refused
from tests.records import image_id


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create_topics([TopicSpec(RESULTS, 8)])
    yield log
    await log.close()


@pytest.fixture
async def replies(log: SqliteLog) -> AsyncIterator[Replies]:
    replies = Replies(log)
    await replies.start()
    task = asyncio.create_task(replies.run())
    yield replies
    task.cancel()
    await asyncio.wait([task])
    await replies.close()


async def answer(log: SqliteLog, name: str, reply_to: str | None, status: int = 200) -> None:
    value = Answer(
        image_id=image_id(name),
        purpose="detect",
        status=status,
        body=detected(filename=name) if status < 400 else refused(status),
    )
    await log.append([NewRecord(RESULTS, image_id(name), value.encode(), reply_to)])


async def test_each_request_gets_the_answer_of_its_own_image(log: SqliteLog, replies: Replies) -> None:
    names = [f"{number}" for number in range(50)]
    waiting = {name: replies.expect(image_id(name)) for name in names}
    assert replies.in_flight == 50
    await asyncio.gather(*(answer(log, name, replies.reply_to) for name in reversed(names)))
    async with asyncio.timeout(10):
        for name, future in waiting.items():
            assert (await future).body == detected(filename=name)
    assert replies.in_flight == 0


async def test_an_answer_that_cannot_be_read_does_not_end_the_reader(log: SqliteLog, replies: Replies) -> None:
    unreadable, good = replies.expect(image_id("unreadable")), replies.expect(image_id("good"))
    value = b'{"image_id": "%s", "purpose": "detect", "status": 200, "body": {}}' % image_id("unreadable").encode()
    await log.append([NewRecord(RESULTS, image_id("unreadable"), value, replies.reply_to)])
    await answer(log, "good", replies.reply_to)
    async with asyncio.timeout(10):
        assert (await good).body == detected(filename="good")
    assert not unreadable.done()
    replies.forget(image_id("unreadable"), unreadable)


async def test_recent_answers_are_remembered_until_the_store_has_them(
    log: SqliteLog, replies: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = replies.expect(image_id("a"))
    await answer(log, "a", replies.reply_to)
    async with asyncio.timeout(10):
        given = await first
    assert replies.recent_answer(image_id("a")) == given
    monkeypatch.setattr(replies_module, "RECENT_S", 0.0)
    assert replies.recent_answer(image_id("a")) is None


async def test_all_requests_that_wait_for_an_image_get_its_first_answer(log: SqliteLog, replies: Replies) -> None:
    futures = [replies.expect(image_id("a")) for _ in range(3)]
    await answer(log, "a", replies.reply_to, status=200)
    await answer(log, "a", replies.reply_to, status=422)
    async with asyncio.timeout(10):
        assert [it.status for it in await asyncio.gather(*futures)] == [200, 200, 200]


async def test_an_answer_that_comes_before_anybody_reads_is_not_missed(log: SqliteLog) -> None:
    replies = Replies(log)
    await replies.start()
    future = replies.expect(image_id("a"))
    await answer(log, "a", replies.reply_to)
    task = asyncio.create_task(replies.run())
    async with asyncio.timeout(10):
        assert (await future).status == 200
    task.cancel()
    await asyncio.wait([task])
    await replies.close()


async def test_an_answer_from_before_the_start_is_not_delivered(log: SqliteLog) -> None:
    replies = Replies(log)
    await answer(log, "a", replies.reply_to, status=422)
    await replies.start()
    future = replies.expect(image_id("a"))
    await answer(log, "a", replies.reply_to, status=200)
    task = asyncio.create_task(replies.run())
    async with asyncio.timeout(10):
        assert (await future).status == 200
    task.cancel()
    await asyncio.wait([task])
    await replies.close()


async def test_answers_that_no_request_waits_for_are_skipped(log: SqliteLog, replies: Replies) -> None:
    await log.append([NewRecord(RESULTS, "somebody else's", b"not even an answer", replies.reply_to)])
    await answer(log, "given up", replies.reply_to)
    future = replies.expect(image_id("a"))
    await answer(log, "a", replies.reply_to)
    async with asyncio.timeout(10):
        assert (await future).status == 200


async def test_only_the_request_that_gave_up_is_forgotten(log: SqliteLog, replies: Replies) -> None:
    impatient, patient = replies.expect(image_id("a")), replies.expect(image_id("a"))
    replies.forget(image_id("a"), impatient)
    replies.forget(image_id("a"), impatient)  # a second time changes nothing
    replies.forget(image_id("unknown"), impatient)
    assert replies.in_flight == 1
    await answer(log, "a", replies.reply_to)
    async with asyncio.timeout(10):
        assert (await patient).status == 200
    assert not impatient.done()
    replies.forget(image_id("a"), patient)
    assert replies.in_flight == 0


async def test_a_cancelled_request_does_not_block_others(log: SqliteLog, replies: Replies) -> None:
    cancelled, waiting = replies.expect(image_id("a")), replies.expect(image_id("a"))
    cancelled.cancel()
    await answer(log, "a", replies.reply_to)
    async with asyncio.timeout(10):
        assert (await waiting).status == 200


async def test_two_replicas_have_addresses_of_their_own(log: SqliteLog) -> None:
    assert Replies(log).reply_to != Replies(log).reply_to


async def test_a_log_without_its_topics_says_so_at_the_start(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "empty.db")
    with pytest.raises(InvalidRequest, match=RESULTS):
        await Replies(log).start()
    await log.close()


class AwayReader(Reader):
    """A reader whose first polls fail."""

    def __init__(self, inner: Reader) -> None:
        self.inner, self.failures = inner, 3

    async def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        return await self.inner.poll(max_records, timeout_s)

    def next_offsets(self) -> Mapping[int, int]:
        return self.inner.next_offsets()

    async def close(self) -> None:
        await self.inner.close()


class AwayLog(SqliteLog):
    """A log that is unavailable at the first reads."""

    async def reader(
        self, topic: str, *, at: Literal["start", "end"] | Mapping[int, int], partitions: Collection[int] | None = None
    ) -> Reader:
        return AwayReader(await super().reader(topic, at=at, partitions=partitions))


async def test_no_answer_is_lost_while_the_log_is_unavailable(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies_module, "LOG_AWAY_S", 0.01)
    away = AwayLog(tmp_path / "log.db")
    replies = Replies(away)
    await replies.start()
    future = replies.expect(image_id("a"))
    await answer(log, "a", replies.reply_to)
    with structlog.testing.capture_logs():
        task = asyncio.create_task(replies.run())
        async with asyncio.timeout(10):
            assert (await future).status == 200
    task.cancel()
    await asyncio.wait([task])
    await replies.close()
    await away.close()


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


async def test_retry_after_follows_the_pace_of_the_answers(
    log: SqliteLog, replies: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert replies.seconds_until_free() == 1  # nothing is known yet
    clock = Clock()
    monkeypatch.setattr(replies_module, "time", clock)
    async with asyncio.timeout(10):
        for clock.now in (0, 5, 10, 15):  # one in five seconds
            answered = replies.expect(image_id("answered"))
            await answer(log, "answered", replies.reply_to)
            await answered
    clock.now = 20
    waiting = [replies.expect(image_id(f"{number}")) for number in range(8)]
    assert len(waiting) == replies.in_flight
    assert replies.seconds_until_free() == 20  # half of the eight are done by then
    for number in range(8, 1_000):
        replies.expect(image_id(f"{number}"))
    assert replies.seconds_until_free() == 60
