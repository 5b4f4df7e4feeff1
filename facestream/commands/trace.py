"""`facestream trace`: the records of one image in every topic, with their times."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from backends.log import EventLog, Record, partition_of
from facestream.flags import add_settings, settings_from
from facestream.interrupt import run_interruptibly
from facestream.progress import progress_bar
from facestream.runtime.stores import open_stores
from facestream.terminal import printable
from schemas.answers import Problem
from schemas.cloudevents import decode_image_received
from schemas.errors import InvalidRequest, UnreadableRecord
from schemas.event import EventRecord
from schemas.ids import is_image_id
from schemas.records import (
    RECORDS,
    Answer,
    DeadLetterClosed,
    EraseRequested,
    FaceLearned,
    FacesDetected,
    FacesEmbedded,
    FacesReembedded,
    ImageReceived,
    decode_embedded,
)
from stream.dead_letters import Letter, read_letter
from stream.topic_reading import offset_ranges, read_ranges
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
Print the records of an image in every topic: time, milliseconds since the record before, topic,
partition/offset, and what the record says. Records past their retention are missing. The roles' logs have the
same image_id.
"""


@dataclass(frozen=True, slots=True)
class TraceStep:
    record: Record
    text: str


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("trace", help="show the records of one image in every topic", description=DESCRIPTION)
    parser.add_argument("image_id", metavar="IMAGE_ID", help='the "image_id" of an answer')
    parser.add_argument("--json", action="store_true", help="JSON Lines")
    add_settings(parser, ("log", "data"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if not is_image_id(arguments.image_id):
        raise InvalidRequest(f"'{arguments.image_id}' is no image_id: answers have it as \"image_id\"")
    return run_interruptibly(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with open_stores(settings_from(arguments)) as stores:
        steps = await trace_image(stores.log, arguments.image_id)
    for line in _json_lines(steps) if arguments.json else _text_lines(steps):
        print(line)
    if not steps:
        print(
            f"no topic knows {arguments.image_id}: there is no such image, or its records are past their retention",
            file=sys.stderr,
        )
    return 0 if steps else 1


async def trace_image(log: EventLog, image_id: str) -> list[TraceStep]:
    """The records of an image, in the order of their append times."""
    found: list[Record] = []
    for topic in (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, FACES_DETECTED):
        found += await _records_of_image(log, topic, image_id, image_id)
    found += await _records_of_image(log, DEAD_LETTERS, image_id, None)
    received = next((image for record in found if (image := _image_in(_decode_event(record))) is not None), None)
    for topic in (FACES_EMBEDDED, FACES_LEARNED.name):
        found += await _records_of_image(log, topic, image_id, (received.directory or "") if received else None)
    found += await _records_of_image(log, RESULTS, image_id, (received.reply_to or image_id) if received else None)
    found.sort(key=lambda record: record.timestamp)
    return [TraceStep(record, _describe(record)) for record in found]


def _text_lines(steps: Sequence[TraceStep]) -> Iterator[str]:
    before = steps[0].record.timestamp if steps else 0
    for step in steps:
        record = step.record
        position = f"{record.topic} {record.partition}/{record.offset}"
        time = f"{_format_time(record.timestamp)}  {record.timestamp - before:>+8,} ms"
        yield f"{time}  {position:<32}  {printable(step.text)}"
        before = record.timestamp


def _json_lines(steps: Sequence[TraceStep]) -> Iterator[str]:
    before = steps[0].record.timestamp if steps else 0
    for step in steps:
        record = step.record
        line = {
            "time": _format_time(record.timestamp),
            "after_ms": record.timestamp - before,
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "text": step.text,
        }
        yield json.dumps(line)
        before = record.timestamp


async def _records_of_image(log: EventLog, topic: str, image_id: str, partition_key: str | None) -> list[Record]:
    """The records of an image in the partition of `partition_key`, or in all partitions if that is None."""
    count = await log.partitions(topic)
    wanted = await offset_ranges(
        log, topic, range(count) if partition_key is None else [partition_of(partition_key, count)]
    )
    found: list[Record] = []
    with progress_bar(topic, sum(end - start for start, end in wanted.values()), always=False) as advance:

        def take(records: Sequence[Record]) -> None:
            advance(len(records))
            found.extend(record for record in records if _image_id_of(record) == image_id)

        await read_ranges(log, topic, wanted, take)
    return found


def _image_id_of(record: Record) -> str:
    """Another system has chosen the key of a dead letter."""
    letter = _decode_event(record) if record.topic == DEAD_LETTERS else None
    return letter.image_id if isinstance(letter, Letter) else record.key


def _decode_event(record: Record) -> EventRecord | Letter | None:
    try:
        if record.topic in (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK):
            return decode_image_received(record.value, record.headers)
        if record.topic == FACES_EMBEDDED:
            return decode_embedded(record.value)
        if record.topic == DEAD_LETTERS:
            return read_letter(record)
        (only,) = RECORDS[record.topic]
        return only.decode(record.value)
    except UnreadableRecord:
        return None


def _image_in(event: EventRecord | Letter | None) -> ImageReceived | None:
    """The image, if the record contains it. A dead letter is kept longest."""
    if isinstance(event, Letter):
        return event.event
    return event if isinstance(event, ImageReceived) else None


def _describe(record: Record) -> str:
    """Describes the record in one line."""
    match _decode_event(record):
        case ImageReceived() as event:
            directory = "" if event.directory is None else f", directory '{event.directory}'"
            again = "" if event.received_at is None else f" again, as of {_format_time(event.received_at)}"
            source = event.media_type if event.source is None else f"{event.source.bucket}/{event.source.key}"
            return f"accepted to {event.purpose}{again}{directory}, {source}, {event.object_key}"
        case FacesDetected() | FacesEmbedded() as event:
            return f"faces: {len(event.faces)}"
        case FacesReembedded() as event:
            return f"faces in generation {event.generation}: {len(event.faces)}"
        case EraseRequested() as event:
            what = event.erased_image_id or event.face_id or event.person
            return f"to erase {what or 'everybody'}, directory '{event.directory}'"
        case Answer() as event:
            said = event.body.code if isinstance(event.body, Problem) else event.body.status
            return f"answered {event.status} {said}"
        case Letter(failure=it):
            return f"dead letter after {it.attempts} attempts: {it.code}: {it.reason}"
        case DeadLetterClosed() as event:
            return f"dead letter {record.partition}-{event.letter} {event.closed}"
        case FaceLearned():
            return "in the gallery"
        case _:
            return "erased" if record.value is None else "cannot be read"


def _format_time(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp / 1000, UTC).isoformat(timespec="milliseconds")
