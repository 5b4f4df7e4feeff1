"""Measures how far the consumer groups are behind: the lag and the age of the oldest record, as metrics and for
backpressure.
"""

import asyncio
import time
from collections.abc import Sequence

import structlog
from prometheus_client import Gauge

from backends.log import EventLog
from schemas.errors import Unavailable
from stream.topics import TOPICS

log = structlog.get_logger(__name__)

LAG = Gauge("facestream_lag_records", "Records that a group has not committed past", ["group", "topic"])
AGE = Gauge(
    "facestream_oldest_record_age_seconds",
    "Age of the oldest record that a group has not committed past",
    ["group", "topic"],
)
NEAR_RETENTION = Gauge(
    "facestream_retention_used_ratio",
    "Age of a group's oldest record as a share of its topic's retention: records are lost from 1 on; alert at 0.5",
    ["group", "topic"],
)
ALARM_RATIO = 0.5
WARN_EVERY_S = 60.0


class LagMonitor:
    """Measures the lag every `every_s` seconds. pairs: consumer groups with their topics."""

    def __init__(self, log_: EventLog, pairs: Sequence[tuple[str, str]], every_s: float) -> None:
        self._log, self._pairs, self._every_s = log_, pairs, every_s
        self._retention = {spec.name: spec.retention_s for spec in TOPICS}
        self._oldest: dict[tuple[str, str], int] = {}  # append time in ms
        self._measured_at: dict[tuple[str, str], float] = {}
        self._ahead_s = 0.0  # of this computer's clock: how far it is ahead of the log's
        self._warned: dict[tuple[str, str], float] = {}

    async def run(self) -> None:
        while True:
            try:
                await self.measure()
            except Unavailable as error:
                log.warning("reading the lag failed", reason=error.message)
            await asyncio.sleep(self._every_s)

    async def measure(self) -> None:
        for group, topic in self._pairs:
            now = time.monotonic()
            oldest = await self._log.oldest_uncommitted_ms(group, topic)
            lag = sum((await self._log.lag(group, topic)).values())
            if oldest is None:
                self._oldest.pop((group, topic), None)
            else:
                if (group, topic) not in self._oldest and (group, topic) in self._measured_at:
                    self._compare_clocks(oldest, time.monotonic() - self._measured_at[group, topic])
                self._oldest[group, topic] = oldest
            self._measured_at[group, topic] = now
            self._publish(group, topic, lag)

    def age_s(self) -> float:
        """The age of the oldest record of all pairs at the last measurement; 0 if none waits. It is not too large by
        more than a second or two, although the log's clock is another one.
        """
        if not self._oldest:
            return 0.0
        return max(0.0, time.time() - self._ahead_s - min(self._oldest.values()) / 1000)

    def _compare_clocks(self, appended_ms: int, within_s: float) -> None:
        """Compares the clocks by a record that was appended within the last seconds: the log has a clock of its own. If
        that is ahead, an age is too small, and nobody is refused for it.
        """
        self._ahead_s = max(0.0, time.time() - appended_ms / 1000 - within_s)

    def _publish(self, group: str, topic: str, lag: int) -> None:
        oldest, retention = self._oldest.get((group, topic)), self._retention[topic]
        age = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)
        LAG.labels(group, topic).set(lag)
        AGE.labels(group, topic).set(age)
        if retention is None:
            return
        NEAR_RETENTION.labels(group, topic).set(age / retention)
        warned = self._warned.get((group, topic), float("-inf"))
        if age / retention >= ALARM_RATIO and time.monotonic() - warned > WARN_EVERY_S:
            self._warned[group, topic] = time.monotonic()
            log.error(
                "a group is so far behind that records will be lost: start more of its role, or fix what stops it",
                group=group,
                topic=topic,
                lag=lag,
                oldest_days=round(age / 86_400, 2),
                retention_days=retention / 86_400,
            )
