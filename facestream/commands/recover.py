"""`facestream recover`: lets a consumer group continue whose committed offsets no longer exist."""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from backends.log import CommittedOffset, Consumer, EventLog, TopicPartition
from facestream.flags import add_settings, settings_from
from facestream.interrupt import run_interruptibly
from facestream.runtime.stores import open_stores
from schemas.errors import ConfigurationError
from stream.topics import GROUPS

DESCRIPTION = """\
A role stops when records were deleted before it had handled them: its committed offset is gone, and continuing
would skip them silently. This command shows how many were lost and, with --yes, sets the group to the earliest
record that is left. Stop the role first. Exit code 1: records were lost and nothing was changed.
"""
JOIN_S = 60.0


@dataclass(frozen=True, slots=True)
class MissingOffset:
    """Offsets of a partition whose committed offset does not exist. lost: the number of records that were deleted
    before they were handled; None if the committed offset is beyond the end, which means that this is another log.
    """

    committed: int
    earliest: int
    end: int

    @property
    def lost(self) -> int | None:
        return self.earliest - self.committed if self.committed < self.earliest else None


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("recover", help="continue after records were lost", description=DESCRIPTION)
    parser.add_argument("group", choices=sorted(GROUPS), help="the consumer group that its error names")
    parser.add_argument("--yes", action="store_true", help="set the group; without this, only show what was lost")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_settings(parser, ("log", "data"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    return run_interruptibly(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with open_stores(settings_from(arguments)) as stores:
        topics = GROUPS[arguments.group]
        consumer = await stores.log.consumer(arguments.group, topics, member="recover")
        try:
            await _wait_for_assignment(stores.log, consumer, topics)
            gone = await _find_missing_offsets(stores.log, consumer, topics)
            if not arguments.json:
                _print_lines(gone)
            if arguments.yes and gone:
                await consumer.commit({at: CommittedOffset(it.earliest) for at, it in gone.items()})
        finally:
            await consumer.close()
    if arguments.json:
        partitions = [at._asdict() | asdict(it) for at, it in sorted(gone.items())]
        print(json.dumps({"group": arguments.group, "set": arguments.yes and bool(gone), "partitions": partitions}))
    elif arguments.yes and gone:
        print(f"{len(gone)} partitions set to their earliest record")
    if gone and not arguments.yes:
        print("nothing was changed: do it with --yes", file=sys.stderr)
        return 1
    return 0


def _print_lines(gone: dict[TopicPartition, MissingOffset]) -> None:
    for (topic, partition), it in sorted(gone.items()):
        lost = f"the log ends at {it.end}: it is another log" if it.lost is None else f"{it.lost} records lost"
        print(f"{topic} partition {partition}: committed {it.committed}, earliest {it.earliest}: {lost}")
    if not gone:
        print("nothing is missing: the group can go on")


async def _wait_for_assignment(log: EventLog, consumer: Consumer, topics: tuple[str, ...]) -> None:
    wanted = sum([await log.partitions(topic) for topic in topics])
    deadline = time.monotonic() + JOIN_S
    while len(consumer.assignment) < wanted:
        if time.monotonic() > deadline:
            raise ConfigurationError("other members of the group are running: stop the role first")
        await consumer.poll(1, 1.0, paused=list(consumer.assignment))


async def _find_missing_offsets(
    log: EventLog, consumer: Consumer, topics: tuple[str, ...]
) -> dict[TopicPartition, MissingOffset]:
    """The partitions whose committed offset does not exist."""
    starts = {topic: await log.start_offsets(topic) for topic in topics}
    ends = {topic: await log.end_offsets(topic) for topic in topics}
    return {
        at: MissingOffset(it.offset, starts[at.topic][at.partition], ends[at.topic][at.partition])
        for at, it in consumer.assignment.items()
        if not starts[at.topic][at.partition] <= it.offset <= ends[at.topic][at.partition]
    }
