"""Reports partitions that nobody reads: somebody has added them to a topic, and keys are still distributed over those
that `facestream init` made (docs/decisions/partition-count.md).
"""

import asyncio
from collections import defaultdict

import structlog
from prometheus_client import Gauge

from backends.log import EventLog
from schemas.errors import Unavailable

log = structlog.get_logger(__name__)

UNREAD = Gauge("facestream_unread_records", "Records in partitions that nobody reads, by topic", ["topic"])
SAY_EVERY_S = 60.0


async def describe_unused_partitions(log_: EventLog) -> dict[str, str]:
    """What to know of the topics that have unused partitions, by topic. Raises Unavailable."""
    by_topic: dict[str, dict[int, int]] = defaultdict(dict)
    for at, records in (await log_.unused_partitions()).items():
        by_topic[at.topic][at.partition] = records
    for topic in by_topic:
        UNREAD.labels(topic).set(sum(by_topic[topic].values()))
    return {
        topic: f"partitions were added, and only those below {min(unused)} are read; records that are not read:"
        f" {', '.join(f'{count} in partition {partition}' for partition, count in unused.items())};"
        f" have every producer use partitions 0 to {min(unused) - 1}, and send these records again"
        for topic, unused in by_topic.items()
    }


class UnusedPartitions:
    """Logs an error for each topic with unused partitions, at the start and then every minute. `degraded` is what was
    found last.
    """

    def __init__(self, log_: EventLog) -> None:
        self._log = log_
        self._found: dict[str, str] = {}

    def degraded(self) -> dict[str, str]:
        return self._found

    async def run(self) -> None:
        while True:
            try:
                self._found = await describe_unused_partitions(self._log)
            except Unavailable as error:
                log.warning("looking for unused partitions failed", reason=error.message)
            for topic, text in self._found.items():
                log.error("nobody reads some partitions", topic=topic, reason=text)
            await asyncio.sleep(SAY_EVERY_S)
