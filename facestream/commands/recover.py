"""`facestream recover`: lets a consumer group continue whose committed offsets no longer exist."""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from backends.log import CommittedOffset, Consumer, EventLog, Record, TopicPartition, UnreadableBatch
from facestream.flags import add_settings, settings_from
from facestream.interrupt import run_interruptibly
from facestream.runtime.stores import open_stores
from schemas.errors import ConfigurationError, UnreadableRecord
from stream.dead_letters import dead_letter_record
from stream.topics import GROUPS

DESCRIPTION = """\
A role stops when records were deleted before it had handled them: its committed offset is gone, and continuing
would skip them silently. It stops in one partition at a batch that cannot be read. This command shows how many
records were lost, or which batches cannot be read. With --yes it sets the group to the earliest record that is left,
or to the end of each of these batches, for which it leaves a dead letter. Stop the role first. Exit code 1: something
was found and nothing was changed.
"""
JOIN_S = 60.0
READ_S, QUIET_POLLS = 1.0, 5  # a partition that a transaction of another system holds back gives no records


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
            unreadable = {} if gone else await _find_unreadable_batches(stores.log, consumer, topics)
            if not arguments.json:
                _print_lines(gone, unreadable)
            if arguments.yes and gone:
                await consumer.commit({at: CommittedOffset(it.earliest) for at, it in gone.items()})
            if arguments.yes and unreadable:
                await _skip(stores.log, arguments.group, consumer, unreadable)
        finally:
            await consumer.close()
    found = bool(gone or unreadable)
    if arguments.json:
        said = {
            "group": arguments.group,
            "set": arguments.yes and found,
            "partitions": [at._asdict() | asdict(it) for at, it in sorted(gone.items())],
            "unreadable": [at._asdict() | asdict(it) for at, it in sorted(unreadable.items())],
        }
        print(json.dumps(said))
    elif arguments.yes and gone:
        print(f"{len(gone)} partitions set to their earliest record")
    elif arguments.yes and unreadable:
        print(f"{len(unreadable)} batches skipped: `facestream dead-letters list` shows them")
    if found and not arguments.yes:
        print("nothing was changed: do it with --yes", file=sys.stderr)
        return 1
    return 0


def _print_lines(
    gone: dict[TopicPartition, MissingOffset], unreadable: Mapping[TopicPartition, UnreadableBatch]
) -> None:
    for (topic, partition), it in sorted(gone.items()):
        lost = f"the log ends at {it.end}: it is another log" if it.lost is None else f"{it.lost} records lost"
        print(f"{topic} partition {partition}: committed {it.committed}, earliest {it.earliest}: {lost}")
    for (topic, partition), batch in sorted(unreadable.items()):
        print(f"{topic} partition {partition}: {batch}")
    if not gone and not unreadable:
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


async def _find_unreadable_batches(
    log: EventLog, consumer: Consumer, topics: tuple[str, ...]
) -> dict[TopicPartition, UnreadableBatch]:
    """The batches that cannot be read and are the next that their partitions have for the group. Those that come after
    readable records are not among them.
    """
    ends = {topic: await log.end_offsets(topic) for topic in topics}
    waiting = {at for at, it in consumer.assignment.items() if it.offset < ends[at.topic][at.partition]}
    quiet = 0
    while waiting - consumer.unreadable.keys() and quiet < QUIET_POLLS:
        records = await consumer.poll(len(waiting), READ_S, paused=consumer.assignment.keys() - waiting)
        waiting -= {record.topic_partition for record in records}
        waiting = {at for at in waiting if consumer.next_offsets()[at] < ends[at.topic][at.partition]}
        quiet = 0 if records else quiet + 1
    # The records before an unreadable batch are there before it is known to be unreadable.
    while records := await consumer.poll(len(waiting) or 1, 0, paused=consumer.assignment.keys() - waiting):
        waiting -= {record.topic_partition for record in records}
    return {at: batch for at, batch in consumer.unreadable.items() if at in waiting}


async def _skip(
    log: EventLog, group: str, consumer: Consumer, unreadable: Mapping[TopicPartition, UnreadableBatch]
) -> None:
    """Appends a dead letter for each batch, and commits its end."""
    letters = []
    offsets = {}
    for at, batch in unreadable.items():
        record = Record(at.topic, at.partition, batch.first, 0, None, None)
        letters.append(dead_letter_record(record, None, UnreadableRecord(str(batch)), 0, group))
        end = (await log.end_offsets(at.topic))[at.partition]
        offsets[at] = CommittedOffset(min(batch.last + 1, end))  # the header of a damaged batch may be wrong
    await log.append(letters)
    await consumer.commit(offsets)
