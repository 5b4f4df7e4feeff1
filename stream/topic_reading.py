"""Reads the records that a topic has now, and stops at the end."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from backends.log import EventLog, Record
from schemas.errors import Unavailable

RECORDS_PER_POLL = 1_000
POLL_S = 1.0
PATIENCE_S = 10.0


class OffsetRange(NamedTuple):
    """The offsets of a partition's records: from `start` up to, but not including, `end`."""

    start: int
    end: int


async def offset_ranges(log: EventLog, topic: str, partitions: Collection[int]) -> dict[int, OffsetRange]:
    """The current offsets of each of these partitions, without partitions that have no records. Raises InvalidRequest
    for an unknown topic, Unavailable.
    """
    starts, ends = await log.start_offsets(topic), await log.end_offsets(topic)
    return {each: OffsetRange(starts[each], ends[each]) for each in partitions if ends[each] > starts[each]}


async def read_ranges(
    log: EventLog, topic: str, ranges: dict[int, OffsetRange], take: Callable[[Sequence[Record]], None]
) -> None:
    """Passes all records of these ranges to `take`, in order within each partition. Raises Unavailable, also if an open
    transaction holds records back.
    """
    left = set(ranges)
    if not left:
        return
    reader = await log.reader(topic, at={each: ranges[each].start for each in sorted(left)})
    deadline = time.monotonic() + PATIENCE_S
    try:
        while left:
            records = await reader.poll(RECORDS_PER_POLL, POLL_S)
            take([record for record in records if record.offset < ranges[record.partition].end])
            offsets = reader.next_offsets()
            left = {each for each in left if offsets[each] < ranges[each].end}
            if records:
                deadline = time.monotonic() + PATIENCE_S
            elif time.monotonic() > deadline:
                starts = await log.start_offsets(topic)  # retention may have deleted what was left
                left = {each for each in left if starts[each] < ranges[each].end}
                if left:
                    held = min(left)
                    raise Unavailable(
                        f"topic '{topic}', partition {held}, cannot be read beyond offset {offsets[held]}:"
                        " perhaps a transaction of another system is open"
                    )
    finally:
        await reader.close()


async def read_topic(log: EventLog, topic: str, take: Callable[[Sequence[Record]], None]) -> None:
    """Passes all records that a topic has now to `take`, in order within each partition. Raises InvalidRequest for an
    unknown topic, Unavailable.
    """
    await read_ranges(log, topic, await offset_ranges(log, topic, range(await log.partitions(topic))), take)
