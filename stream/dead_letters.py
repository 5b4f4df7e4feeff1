"""The open dead letters: those that have not been retried or dropped yet.

They are found by reading the topic `dead-letters` from its start. A retry or a drop appends a record to the partition
of the letter, so that a letter is known to be closed for as long as it is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from backends.log import EventLog, NewRecord, Record
from schemas.errors import UnreadableRecord
from schemas.origins import Origin
from schemas.records import DeadLetter, DeadLetterClosed, ImageReceived, decode_dead_letter
from stream.topic_reading import read_topic
from stream.topics import DEAD_LETTERS, IMAGES_RECEIVED, ORIGIN_TOPICS

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, and the record that carries it."""

    record: Record
    content: DeadLetter

    @property
    def id(self) -> str:
        """The letter's partition and offset in `dead-letters`."""
        return f"{self.record.partition}-{self.record.offset}"

    @property
    def event(self) -> ImageReceived | None:
        """The event to append for a retry. It has the origin of the image, so that what was erased since stays
        erased, and the time at which it was first received.
        """
        event, content = self.content.event, self.content
        if event is None:
            return None
        if event.origin is None and content.topic in ORIGIN_TOPICS:  # an older version has written the letter
            here = Origin(topic=content.topic, partition=content.partition, offset=content.offset)
            event = event.with_origin(here)
        return event.model_copy(update={"received_at": event.first_received_at(self.record.timestamp)})


async def open_letters(log_: EventLog) -> list[Letter]:
    """The open letters, oldest first. If a record has two letters, because the process ended after the first one, the
    first one counts. Raises InvalidRequest if the topic is missing, Unavailable.
    """
    letters: dict[tuple[str, int, int], Letter] = {}  # by topic, partition and offset of the failed record
    about: dict[
        tuple[int, int], tuple[str, int, int]
    ] = {}  # the key in `letters`, by the letter's partition and offset

    def take(records: Sequence[Record]) -> None:
        for record in records:
            try:
                content = decode_dead_letter(record.value)
            except UnreadableRecord as error:
                log.error(
                    "unreadable dead letter", partition=record.partition, offset=record.offset, reason=error.message
                )
                continue
            if isinstance(content, DeadLetter):
                failed = about[record.partition, record.offset] = (content.topic, content.partition, content.offset)
                letters.setdefault(failed, Letter(record, content))
            elif (closed := about.get((record.partition, content.letter))) is not None:
                letters.pop(closed, None)

    await read_topic(log_, DEAD_LETTERS, take)
    return sorted(letters.values(), key=lambda it: (it.record.timestamp, it.record.partition, it.record.offset))


async def retry(log_: EventLog, letters: Sequence[Letter]) -> None:
    """Processes letters again. Each must have an event. Raises Unavailable, StorageFull.

    The events are appended first. If the process ends before the letters are closed, they stay on the list although
    they are tried again. Handling an event twice has the effect of handling it once.
    """
    # `reply_to` stays as it is. If that replica no longer exists, nobody waits there, and the answers are still stored,
    # because the stage `answers` reads every partition.
    events = [
        NewRecord(IMAGES_RECEIVED, event.image_id, event.encode()) for it in letters if (event := it.event) is not None
    ]
    await log_.append(events)
    await log_.append([_closing_record(it, "retried") for it in letters])


async def drop(log_: EventLog, letters: Sequence[Letter]) -> None:
    """Takes letters off the list. Raises Unavailable, StorageFull."""
    await log_.append([_closing_record(it, "dropped") for it in letters])


def _closing_record(letter: Letter, how: Literal["retried", "dropped"]) -> NewRecord:
    return NewRecord(
        DEAD_LETTERS, letter.record.key, DeadLetterClosed(closed=how, letter=letter.record.offset).encode()
    )
