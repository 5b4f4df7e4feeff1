"""How much a consumer group has left until it has passed what a topic had at some moment."""

import asyncio
from collections.abc import Mapping

from backends.log import EventLog

LOOK_EVERY_S = 0.2


async def records_left(log: EventLog, group: str, topic: str, ends: Mapping[int, int]) -> int:
    """How many offsets below `ends` the group has not committed past. Offsets without a record, after a compaction,
    count too. Never too few; what is committed meanwhile may still count.
    """
    now = await log.end_offsets(topic)
    lag = await log.lag(group, topic)
    return sum(max(0, end - (now[partition] - lag.get(partition, now[partition]))) for partition, end in ends.items())


async def wait_until_caught_up(log: EventLog, group: str, topic: str) -> None:
    """Returns when the group has passed what is in the topic by now."""
    ends = await log.end_offsets(topic)
    while await records_left(log, group, topic, ends):  # noqa: ASYNC110  # the log tells nobody
        await asyncio.sleep(LOOK_EVERY_S)
