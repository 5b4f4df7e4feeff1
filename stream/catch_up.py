"""Tells how many records a consumer group has left of those that a topic had at some moment."""

import asyncio
from collections.abc import Mapping

from backends.log import EventLog

LOOK_EVERY_S = 0.2


async def remaining_lag(log: EventLog, group: str, topic: str, ends: Mapping[int, int]) -> int:
    """How many offsets below `ends` the group has not committed past, with those that have no record."""
    offsets = await log.group_offsets(group, topic)
    return sum(max(0, end - offsets[partition]) for partition, end in ends.items())


async def wait_until_caught_up(log: EventLog, group: str, topic: str) -> None:
    """Returns when the group has passed all records that are in the topic now."""
    ends = await log.end_offsets(topic)
    while await remaining_lag(log, group, topic, ends):  # noqa: ASYNC110  # the log tells nobody
        await asyncio.sleep(LOOK_EVERY_S)
