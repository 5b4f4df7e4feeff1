"""`facestream recover`: lets a consumer group go on whose committed offsets no longer exist."""

import argparse
import asyncio
import sys
import time
from typing import Any

from backends.log import Committed, Consumer, EventLog, TopicPartition
from facestream.flags import add_settings, settings_from
from facestream.runtime.stores import open_stores
from schemas.errors import ConfigurationError
from stream.topics import GROUPS

DESCRIPTION = """\
A role stops when records were deleted before it had handled them: its committed offset is gone, and going on would skip them in
silence. This command says how many were lost, and sets the group to the earliest record that is left. Stop the role first.
"""
JOIN_S = 60.0


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("recover", help="go on after records were lost", description=DESCRIPTION)
    parser.add_argument("group", choices=sorted(GROUPS), help="the consumer group that its error names")
    parser.add_argument("--yes", action="store_true", help="do it; without this, only say what was lost")
    add_settings(parser, ("log", "data"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with open_stores(settings_from(arguments)) as stores:
        topics = GROUPS[arguments.group]
        consumer = await stores.log.consumer(arguments.group, topics, member="recover")
        try:
            await _all_assigned(stores.log, consumer, topics)
            gone = await _gone(stores.log, consumer, topics)
            for at, (committed, start, end) in sorted(gone.items()):
                lost = (
                    f"{start - committed} records lost"
                    if committed < start
                    else f"the log ends at {end}: it is another one"
                )
                print(f"{at.topic} partition {at.partition}: committed {committed}, earliest {start}: {lost}")
            if not gone:
                print("nothing is missing: the group can go on")
            elif arguments.yes:
                await consumer.commit({at: Committed(start) for at, (_, start, _) in gone.items()})
                print(f"{len(gone)} partitions set to their earliest record")
            else:
                print("nothing was changed: do it with --yes", file=sys.stderr)
                return 1
        finally:
            await consumer.close()
    return 0


async def _all_assigned(log: EventLog, consumer: Consumer, topics: tuple[str, ...]) -> None:
    wanted = sum([await log.partitions(topic) for topic in topics])
    deadline = time.monotonic() + JOIN_S
    while len(consumer.assignment) < wanted:
        if time.monotonic() > deadline:
            raise ConfigurationError("other members of the group are running: stop the role first")
        await consumer.poll(1, 1.0, paused=list(consumer.assignment))


async def _gone(
    log: EventLog, consumer: Consumer, topics: tuple[str, ...]
) -> dict[TopicPartition, tuple[int, int, int]]:
    """Committed, earliest and end offset of the partitions whose committed offset does not exist."""
    starts = {topic: await log.start_offsets(topic) for topic in topics}
    ends = {topic: await log.end_offsets(topic) for topic in topics}
    return {
        at: (it.offset, starts[at.topic][at.partition], ends[at.topic][at.partition])
        for at, it in consumer.assignment.items()
        if not starts[at.topic][at.partition] <= it.offset <= ends[at.topic][at.partition]
    }
