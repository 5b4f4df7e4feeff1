"""The lag of groups, as metrics and for backpressure, on a log whose clock the tests set."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog.testing
from prometheus_client import REGISTRY

from backends.log import CommittedOffset, NewRecord, TopicPartition, TopicSpec
from backends.sqlite.log import SqliteLog
from schemas.errors import Unavailable
from stream.lag_monitor import LagMonitor
from stream.topics import FACES_EMBEDDED, FACES_LEARNED, IMAGES_RECEIVED

DAY_S = 86_400.0
KEPT_DAYS = 7  # of IMAGES_RECEIVED and FACES_EMBEDDED
GROUP = "processors"
PAIR = (GROUP, IMAGES_RECEIVED)


class AgedLog(SqliteLog):
    """Records get append times `ago_s` before now. While `away` is set, the log cannot be read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, clock=lambda: time.time() - self.ago_s)
        self.ago_s = 0.0
        self.away = False
        self.asked = 0

    async def oldest_uncommitted_ms(self, group: str, topic: str) -> int | None:
        self.asked += 1
        if self.away:
            raise Unavailable("the log is away")
        return await super().oldest_uncommitted_ms(group, topic)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[AgedLog]:
    log = AgedLog(tmp_path / "log.db")
    await log.create_topics([TopicSpec(topic, 2) for topic in (IMAGES_RECEIVED, FACES_EMBEDDED, FACES_LEARNED.name)])
    yield log
    await log.close()


async def append(log: AgedLog, ago_s: float, *, topic: str = IMAGES_RECEIVED, count: int = 1) -> None:
    log.ago_s = ago_s
    await log.append([NewRecord(topic, "a", b"") for _ in range(count)])


async def commit(log: AgedLog, group: str, done: int) -> None:
    """Commits past so many records of IMAGES_RECEIVED, all of which are in one partition."""
    log.ago_s = 0  # a lease begins now
    consumer = await log.consumer(group, [IMAGES_RECEIVED], member="one")
    while not consumer.assignment:
        await consumer.poll(1, 0.1)
    ends = await log.end_offsets(IMAGES_RECEIVED)
    partition = max(ends, key=lambda each: ends[each])
    await consumer.commit({TopicPartition(IMAGES_RECEIVED, partition): CommittedOffset(done)})
    await consumer.close()


def metric_value(metric: str, group: str = GROUP, topic: str = IMAGES_RECEIVED) -> float | None:
    return REGISTRY.get_sample_value(metric, {"group": group, "topic": topic})


async def test_lag_age_and_the_share_of_the_retention_are_shown(log: AgedLog) -> None:
    watch = LagMonitor(log, [PAIR], 1.0)
    await watch.measure()
    assert [metric_value("facestream_lag_records"), metric_value("facestream_oldest_record_age_seconds")] == [0, 0]
    assert watch.age_s() == 0
    await append(log, 2 * DAY_S, count=3)
    await append(log, 1 * DAY_S, count=2)
    watch = LagMonitor(log, [PAIR], 1.0)  # a service that starts now
    await watch.measure()
    assert metric_value("facestream_lag_records") == 5
    assert metric_value("facestream_oldest_record_age_seconds") == pytest.approx(2 * DAY_S, abs=30)
    assert metric_value("facestream_retention_used_ratio") == pytest.approx(2 / KEPT_DAYS, abs=1e-3)
    assert watch.age_s() == pytest.approx(2 * DAY_S, abs=30)
    await commit(log, GROUP, 3)
    await watch.measure()
    assert metric_value("facestream_lag_records") == 2
    assert watch.age_s() == pytest.approx(DAY_S, abs=30)
    assert metric_value("facestream_oldest_record_age_seconds") == pytest.approx(DAY_S, abs=30)
    await commit(log, GROUP, 5)
    await watch.measure()
    assert [metric_value("facestream_lag_records"), metric_value("facestream_oldest_record_age_seconds")] == [0, 0]
    assert metric_value("facestream_retention_used_ratio") == 0
    assert watch.age_s() == 0


async def test_the_age_is_that_of_the_oldest_record_and_grows_between_two_reads(
    log: AgedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = LagMonitor(log, [PAIR, ("sink", FACES_EMBEDDED)], 1.0)
    await append(log, 100)
    await append(log, 300, topic=FACES_EMBEDDED)
    await watch.measure()
    assert watch.age_s() == pytest.approx(300, abs=30)
    now = time.time()
    monkeypatch.setattr("stream.lag_monitor.time.time", lambda: now + 1_000)
    assert watch.age_s() == pytest.approx(1_300, abs=30)
    monkeypatch.setattr("stream.lag_monitor.time.time", lambda: now - 1_000)  # a clock that is behind the log's
    assert watch.age_s() == 0


@pytest.mark.parametrize(("ahead_s", "later"), [(420, 100), (400 * DAY_S, 100), (-50, 50), (-420, 0)])
async def test_the_log_may_have_another_clock(
    log: AgedLog, monkeypatch: pytest.MonkeyPatch, ahead_s: float, later: float
) -> None:
    """A record that was just appended is not old, whatever the clocks say. ahead_s: how far this computer's clock is
    ahead of the log's; later: how old the record seems after 100 s: too young if the log's clock is ahead.
    """
    watch = LagMonitor(log, [PAIR], 1.0)
    await watch.measure()
    await append(log, ahead_s)
    await watch.measure()
    assert watch.age_s() == pytest.approx(0, abs=5)
    now = time.time()
    monkeypatch.setattr("stream.lag_monitor.time.time", lambda: now + 100)
    await append(log, ahead_s)
    await watch.measure()
    assert watch.age_s() == pytest.approx(later, abs=5)


async def test_a_topic_that_is_kept_for_ever_has_no_share(log: AgedLog) -> None:
    await append(log, 3_000 * DAY_S, topic=FACES_LEARNED.name)
    with structlog.testing.capture_logs() as logs:
        await LagMonitor(log, [("replay-of-for-ever", FACES_LEARNED.name)], 1.0).measure()
    assert metric_value("facestream_lag_records", "replay-of-for-ever", FACES_LEARNED.name) == 1
    assert metric_value("facestream_retention_used_ratio", "replay-of-for-ever", FACES_LEARNED.name) is None
    assert logs == []


async def test_half_of_the_retention_is_logged_for_each_group_but_not_at_every_read(
    log: AgedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = LagMonitor(log, [PAIR, ("sink", FACES_EMBEDDED)], 1.0)
    await append(log, 0.49 * KEPT_DAYS * DAY_S)
    with structlog.testing.capture_logs() as logs:
        await watch.measure()
    assert logs == []
    await append(log, 0.51 * KEPT_DAYS * DAY_S, topic=FACES_EMBEDDED)
    for expected in (["sink"], []):
        with structlog.testing.capture_logs() as logs:
            await watch.measure()
        assert [(it["group"], it["log_level"]) for it in logs] == [(group, "error") for group in expected]
    now = time.time() + 0.05 * KEPT_DAYS * DAY_S
    monkeypatch.setattr("stream.lag_monitor.time.time", lambda: now)
    with structlog.testing.capture_logs() as logs:  # another group's turn does not wait for the first one's
        await watch.measure()
    assert [it["group"] for it in logs] == [GROUP]
    assert logs[0]["oldest_days"] == pytest.approx(0.54 * KEPT_DAYS, abs=0.05)
    monkeypatch.setattr("stream.lag_monitor.WARN_EVERY_S", 0.0)
    with structlog.testing.capture_logs() as logs:
        await watch.measure()
    assert sorted(it["group"] for it in logs) == [GROUP, "sink"]


async def test_a_log_that_is_away_is_asked_again(log: AgedLog) -> None:
    watch = LagMonitor(log, [PAIR], 0.01)
    log.away = True
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(watch.run())
        async with asyncio.timeout(10):
            while log.asked < 3:  # noqa: ASYNC110 - what it waits for is another task's turn
                await asyncio.sleep(0.01)
            await append(log, 100, count=4)
            log.away = False
            while watch.age_s() < 50:  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
    assert metric_value("facestream_lag_records") == 4
    assert {(it["event"], it["reason"]) for it in logs} == {("reading the lag failed", "the log is away")}
