"""The dead letters that nobody has seen to yet: what `dead-letters` comes to, read from its start. Whoever retries or
drops one appends that to the same partition, so a letter is known to be closed as long as it is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from backends.log import EventLog, NewRecord, Record
from schemas.errors import UnreadableRecord
from schemas.records import DeadLetter, DeadLetterClosed, ImageReceived, decode_dead_letter
from stream.topic_reading import read_topic
from stream.topics import DEAD_LETTERS, IMAGES_RECEIVED

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Letter:
    record: Record
    content: DeadLetter

    @property
    def id(self) -> str:
        """Its place in `dead-letters`: partition and offset."""
        return f"{self.record.partition}-{self.record.offset}"

    @property
    def event(self) -> ImageReceived | None:
        """As it is to be tried again: it says when it first came, so that what was erased since then stays erased."""
        event = self.content.event
        return event and event.model_copy(update={"received_at": event.came_at(self.record.timestamp)})


async def open_letters(log_: EventLog) -> list[Letter]:
    """Oldest first; of a record that was given up twice, because the process ended in between, the first. Raises
    InvalidRequest where the topic is missing, Unavailable.
    """
    letters: dict[tuple[str, int, int], Letter] = {}  # by the place of what could not be processed
    about: dict[tuple[int, int], tuple[str, int, int]] = {}  # by the place of the letter

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
    """Lets them go through the stream again; each has an event. Events first: cut off between the two appends, they are
    tried again although they are on the list still, and what is handled twice has one effect. Raises Unavailable,
    StorageFull.
    """
    # `reply_to` stays. Where that replica is gone nobody there waits, and those who keep answers read every partition.
    events = [
        NewRecord(IMAGES_RECEIVED, event.image_id, event.encode()) for it in letters if (event := it.event) is not None
    ]
    await log_.append(events)
    await log_.append([_closed(it, "retried") for it in letters])


async def drop(log_: EventLog, letters: Sequence[Letter]) -> None:
    """Takes them off the list. Raises Unavailable, StorageFull."""
    await log_.append([_closed(it, "dropped") for it in letters])


def _closed(letter: Letter, how: Literal["retried", "dropped"]) -> NewRecord:
    return NewRecord(
        DEAD_LETTERS, letter.record.key, DeadLetterClosed(closed=how, letter=letter.record.offset).encode()
    )
