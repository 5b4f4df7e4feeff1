"""Dead letters: the records that carry them, and those that are open, because nobody has retried or dropped them yet.

A letter about an event of `images.received` or its bulk lane is that record, byte for byte. A letter about a record
behind these topics has the event again, without vectors. schemas/dead_letters.py has the headers that say what went
wrong. Version 0.1 wrote letters as JSON, without headers; these are read too.

Open letters are found by reading the topic `dead-letters` from its start. A retry or a drop appends a record to the
partition of the letter, so that a letter is known to be closed for as long as it is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import structlog

from backends.log import LARGEST_RECORD, EventLog, NewRecord, Record
from backends.vectors import VectorDeleter
from schemas.cloudevents import decode_image_received
from schemas.dead_letters import Failure, Retried, split_headers
from schemas.errors import FacestreamError, InvalidEvent, NotFound, UnreadableRecord
from schemas.event import Header
from schemas.origins import Origin
from schemas.records import DeadLetter, DeadLetterClosed, EraseRequested, ImageReceived, decode_dead_letter
from stream.topic_reading import OffsetRange, offset_ranges, read_ranges, read_topic
from stream.topics import DEAD_LETTERS, IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, ORIGIN_TOPICS

log = structlog.get_logger(__name__)

OF_EVENTS = (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK)


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, without the content of its record, of which `size` is the number of bytes: `read_contents` has it.

    `event` is None if this version cannot read the record as an image: it may be of a newer one. `invalid` has what is
    known of an event that does not fit its schema, as InvalidEvent has it.
    """

    partition: int
    offset: int
    timestamp: int
    key: str
    partition_key: str | bytes
    size: int
    failure: Failure
    event: ImageReceived | None
    invalid: Mapping[str, Any] | None

    @property
    def id(self) -> str:
        """The letter's partition and offset in `dead-letters`."""
        return f"{self.partition}-{self.offset}"

    @property
    def image_id(self) -> str:
        """The id of the image, or else the key of the record that failed."""
        if self.event is not None:
            return self.event.image_id
        return self.key if self.invalid is None else str(self.invalid["image_id"])

    @property
    def directory(self) -> str | None:
        """The directory of the image, as far as it is known."""
        if self.event is not None:
            return self.event.directory
        return None if self.invalid is None else self.invalid.get("directory")

    @property
    def origin(self) -> Origin | None:
        """The first record of the image, as far as it is known."""
        return _position(self.failure) if self.event is None else self.event.origin


class Content(NamedTuple):
    """The record that failed, or the event that it was about."""

    key: str | bytes | None
    value: bytes | None
    headers: tuple[Header, ...]


def dead_letter_record(
    record: Record, received: ImageReceived | EraseRequested | None, error: FacestreamError, attempts: int, stage: str
) -> NewRecord:
    """The dead letter of a record that could not be processed. received: None if that record was unreadable.

    A record that is too large for a letter, which only another system's can be, is left out of it.
    """
    failure = Failure(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        stage=stage,
        exception=f"{type(error).__module__}.{type(error).__qualname__}",
        reason=error.message,
        code=error.code,
        attempts=attempts,
        timestamp=record.timestamp,
    )
    forms: list[tuple[str | bytes | None, bytes | None, tuple[Header, ...]]] = []  # key, value and headers
    if record.topic in OF_EVENTS:
        forms.append((record.original_key, record.value, record.headers))
    if isinstance(received, ImageReceived):
        first = received.first_received_at(record.timestamp)
        forms.append((received.image_id, received.model_copy(update={"received_at": first}).encode(), ()))
    forms += [(record.original_key, None, ()), (None, None, ())]
    said = failure.headers()
    letters = (
        NewRecord(DEAD_LETTERS, key, value, _partition_key(key, failure), (*headers, *said))
        for key, value, headers in forms
    )
    return next(it for it in letters if it.size <= LARGEST_RECORD)


def read_letter(record: Record) -> Letter | DeadLetterClosed:
    """Decodes a record of `dead-letters`. Raises UnreadableRecord."""
    event, invalid = None, None
    partition_key: str | bytes = record.key
    split = split_headers(record.headers)
    if split is None:
        content = decode_dead_letter(record.value)
        if isinstance(content, DeadLetterClosed):
            return content
        said = {"stage": "", "exception": "", "timestamp": record.timestamp}
        failure = Failure.model_validate(content.model_dump(exclude={"event"}) | said)
        event = content.event
    else:
        headers, failure = split
        partition_key = _partition_key(record.original_key, failure)
        try:
            event = decode_image_received(record.value, headers)
        except InvalidEvent as error:
            invalid = error.event
        except UnreadableRecord:
            pass
    if event is not None:
        event = _received_first(event, failure)
    size = NewRecord(record.topic, record.original_key, record.value, headers=record.headers).size
    return Letter(
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        partition_key,
        size,
        failure,
        event,
        invalid,
    )


def read_content(record: Record) -> Content:
    """The content of a letter. Raises UnreadableRecord."""
    split = split_headers(record.headers)
    if split is not None:
        return Content(record.original_key, record.value, split[0])
    event = DeadLetter.decode(record.value).event
    return Content(record.original_key, None if event is None else event.encode(), ())


def _received_first(event: ImageReceived, failure: Failure) -> ImageReceived:
    """The event with the origin of the image, so that what was erased since stays erased, and with the time at which it
    was first received.
    """
    if (here := _position(failure)) is not None:
        event = event.with_origin(here)
    return event.model_copy(update={"received_at": event.first_received_at(failure.timestamp)})


def _position(failure: Failure) -> Origin | None:
    """The position of the record that failed, if images come in with records of its topic."""
    if failure.topic not in ORIGIN_TOPICS:
        return None
    return Origin(topic=failure.topic, partition=failure.partition, offset=failure.offset)


def _partition_key(key: str | bytes | None, failure: Failure) -> str | bytes:
    """Letters without a key are spread over the partitions."""
    return key or f"{failure.topic}-{failure.partition}-{failure.offset}"


async def open_letters(log_: EventLog) -> list[Letter]:
    """The open letters, oldest first. If a record has two letters, because the process ended after the first one, the
    first one counts. Raises InvalidRequest if the topic is missing, Unavailable.
    """
    letters: dict[tuple[str, int, int], Letter] = {}  # by topic, partition and offset of the failed record
    about: dict[tuple[int, int], tuple[str, int, int]] = {}  # the key in `letters`, by partition and offset of a letter

    def take(records: Sequence[Record]) -> None:
        for record in records:
            try:
                content = read_letter(record)
            except UnreadableRecord as error:
                log.error(
                    "unreadable dead letter", partition=record.partition, offset=record.offset, reason=error.message
                )
                continue
            if isinstance(content, Letter):
                failure = content.failure
                failed = about[record.partition, record.offset] = (failure.topic, failure.partition, failure.offset)
                letters.setdefault(failed, content)
            elif (closed := about.get((record.partition, content.letter))) is not None:
                letters.pop(closed, None)

    await read_topic(log_, DEAD_LETTERS, take)
    return sorted(letters.values(), key=lambda it: (it.timestamp, it.partition, it.offset))


async def read_contents(log_: EventLog, letters: Sequence[Letter]) -> list[Content]:
    """The contents of letters, in their order. Raises NotFound for one that retention has deleted, Unavailable."""
    wanted = {(it.partition, it.offset) for it in letters}
    ranges: dict[int, OffsetRange] = {}
    for partition, known in (await offset_ranges(log_, DEAD_LETTERS, {partition for partition, _ in wanted})).items():
        offsets = [offset for at, offset in wanted if at == partition and known.start <= offset < known.end]
        if offsets:
            ranges[partition] = OffsetRange(min(offsets), max(offsets) + 1)
    found: dict[tuple[int, int], Content] = {}

    def take(records: Sequence[Record]) -> None:
        for record in records:
            if (record.partition, record.offset) in wanted:
                found[record.partition, record.offset] = read_content(record)

    await read_ranges(log_, DEAD_LETTERS, ranges, take)
    for it in letters:
        if (it.partition, it.offset) not in found:
            raise NotFound(f"there is no dead letter '{it.id}' any more: it was kept for 14 days")
    return [found[it.partition, it.offset] for it in letters]


async def retry(log_: EventLog, vectors: VectorDeleter, letters: Sequence[Letter]) -> None:
    """Processes letters again. Each must have an event. Raises NotFound, Unavailable, StorageFull.

    The stored answers, which say that the images have failed, are deleted first: the new answers are stored as soon as
    the events are appended. The letters are closed last. If the process ends before, they stay on the list although
    they are tried again. Handling an event twice has the effect of handling it once.
    """
    contents = await read_contents(log_, letters)
    await vectors.delete_answers([it.image_id for it in letters])
    # `reply_to` stays as it is. If that replica no longer exists, nobody waits there, and the answers are still stored,
    # because the stage `answers` reads every partition.
    events = [(it, it.event, content) for it, content in zip(letters, contents, strict=True)]
    await log_.append([_retried(it, event, content) for it, event, content in events if event is not None])
    await log_.append([_closing_record(it, "retried") for it in letters])


async def drop(log_: EventLog, letters: Sequence[Letter]) -> None:
    """Takes letters off the list. Raises Unavailable, StorageFull."""
    await log_.append([_closing_record(it, "dropped") for it in letters])


def _retried(letter: Letter, event: ImageReceived, content: Content) -> NewRecord:
    """The record that failed, in its topic, with a header that says where and when the image first came."""
    topic = letter.failure.topic if letter.failure.topic in OF_EVENTS else IMAGES_RECEIVED
    retried = Retried.model_validate(event, from_attributes=True)
    return NewRecord(topic, content.key, content.value, event.image_id, retried.added_to(content.headers))


def _closing_record(letter: Letter, how: Literal["retried", "dropped"]) -> NewRecord:
    closed = DeadLetterClosed(closed=how, letter=letter.offset)
    return NewRecord(DEAD_LETTERS, letter.image_id, closed.encode(), letter.partition_key)
