"""`facestream trace`: the way of one image through the topics."""

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backends.log import EventLog, Record, partition_of
from facestream.settings_flags import add_flags, settings_from
from facestream.stores import open_stores
from schemas.errors import InvalidRequest, UnreadableRecord
from schemas.ids import is_image_id
from schemas.records import RECORDS, Answer, DeadLetter, EventRecord, FacesDetected, FacesEmbedded, ImageReceived
from stream.topics import (
    DEAD_LETTERS,
    FACES_DETECTED,
    FACES_EMBEDDED,
    FACES_LEARNED,
    IMAGES_RECEIVED,
    IMAGES_RECEIVED_BULK,
    RESULTS,
)

DESCRIPTION = """\
Print the way of an image: each record that it left in a topic, with the time, what became of it, and how long each step took.
Reads the topics as far as they are kept; the roles' logs carry the same image_id.
"""
AT_ONCE = 1_000
POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Step:
    record: Record
    text: str


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("trace", help="the way of one image through the topics", description=DESCRIPTION)
    parser.add_argument("image_id", metavar="IMAGE_ID", help="as every answer has it")
    add_flags(parser, ("log", "data"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if not is_image_id(arguments.image_id):
        raise InvalidRequest(f"'{arguments.image_id}' is no image_id: an answer has it as \"image_id\"")
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with open_stores(settings_from(arguments)) as stores:
        steps = await way_of(stores.log, arguments.image_id)
    for line in lines(steps):
        print(line)
    if not steps:
        print(f"no topic knows {arguments.image_id}: it never was, or its records are past their retention", file=sys.stderr)
    return 0 if steps else 1


async def way_of(log: EventLog, image_id: str) -> list[Step]:
    """The records of an image, in the order of their append times."""
    found: list[Record] = []
    for topic in (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, FACES_DETECTED, DEAD_LETTERS):
        found += await _of_image(log, topic, image_id, image_id)
    events = [event for record in found if (event := _event(record)) is not None]
    received = next((event for event in events if isinstance(event, ImageReceived)), None)
    for topic in (FACES_EMBEDDED, FACES_LEARNED):
        found += await _of_image(log, topic, image_id, (received.directory or "") if received else None)
    found += await _of_image(log, RESULTS, image_id, (received.reply_to or image_id) if received else None)
    found.sort(key=lambda record: record.timestamp)
    return [Step(record, _told(record)) for record in found]


def lines(steps: Sequence[Step]) -> Iterator[str]:
    before = steps[0].record.timestamp if steps else 0
    for step in steps:
        at = step.record
        clock = datetime.fromtimestamp(at.timestamp / 1000, UTC).isoformat(timespec="milliseconds")
        place = f"{at.topic} {at.partition}/{at.offset}"
        yield f"{clock}  {at.timestamp - before:>+8,} ms  {place:<32}  {step.text}"
        before = at.timestamp


async def _of_image(log: EventLog, topic: str, image_id: str, partition_key: str | None) -> list[Record]:
    """The records under that key in the partition of `partition_key`, in all where that is None."""
    count = await log.partitions(topic)
    partitions = range(count) if partition_key is None else [partition_of(partition_key, count)]
    starts, ends = await log.start_offsets(topic), await log.end_offsets(topic)
    left = {each for each in partitions if ends[each] > starts[each]}
    if not left:
        return []
    found: list[Record] = []
    reader = await log.reader(topic, at="start", partitions=sorted(left))
    deadline = time.monotonic() + POLL_S
    try:
        with _progress() as progress:
            task = progress.add_task(topic, total=sum(ends[each] - starts[each] for each in left))
            while left:
                records = await reader.poll(AT_ONCE, POLL_S)
                progress.advance(task, len(records))
                found += [record for record in records if record.key == image_id and record.offset < ends[record.partition]]
                left -= {record.partition for record in records if record.offset >= ends[record.partition] - 1}
                if records:
                    deadline = time.monotonic() + 10 * POLL_S
                elif time.monotonic() > deadline:
                    break  # compaction has taken the last records
    finally:
        await reader.close()
    return found


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def _event(record: Record) -> EventRecord | None:
    try:
        return RECORDS[record.topic].decode(record.value)
    except UnreadableRecord:
        return None


def _told(record: Record) -> str:
    """One line on what a record says."""
    event = _event(record)
    if isinstance(event, ImageReceived):
        directory = "" if event.directory is None else f", directory '{event.directory}'"
        return f"accepted to {event.purpose}{directory}, {event.media_type}, {event.object_key}"
    if isinstance(event, FacesDetected | FacesEmbedded):
        return f"faces: {len(event.faces)}"
    if isinstance(event, Answer):
        return f"answered {event.status} {event.body.get('code', event.body.get('status', ''))}"
    if isinstance(event, DeadLetter):
        return f"dead letter after {event.attempts} attempts: {event.code}: {event.reason}"
    if event is None:
        return "erased" if record.value is None else "cannot be read"
    return "in the gallery" if record.topic == FACES_LEARNED else ""
