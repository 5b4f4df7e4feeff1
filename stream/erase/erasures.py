"""The erasures that every role keeps in memory (rule 6 of docs/architecture.md)."""

from typing import NamedTuple

import structlog

from backends.log import EventLog, Record
from schemas.erasures import directory_erasure_key, face_erasure_key, image_erasure_key, person_erasure_key
from schemas.errors import UnreadableRecord
from schemas.ids import crop_key, learned_face_id, original_keys, sheet_key
from schemas.records import Erasure, ImageReceived
from stream.topic_follower import TopicFollower
from stream.topics import ERASURES

log = structlog.get_logger(__name__)


class ErasurePosition(NamedTuple):
    """The position of an erasure: the append time of its command in ms, and the command's offset in the directory's
    partition of `faces.embedded`.
    """

    time_ms: int
    offset: int


NEVER = ErasurePosition(-1, -1)


class Erasures(TopicFollower):
    """The last erasure of each person, directory, face and image."""

    def __init__(self, log_: EventLog) -> None:
        super().__init__(log_, ERASURES)
        self._positions: dict[str, ErasurePosition] = {}

    def apply(self, record: Record) -> None:
        try:
            erasure = Erasure.decode(record.value)
        except UnreadableRecord as error:
            log.error("unreadable erasure", offset=record.offset, reason=error.message)
            return
        self.add(record.key, ErasurePosition(erasure.at, erasure.offset))

    def add(self, key: str, position: ErasurePosition) -> None:
        """Adds an erasure that this process has carried out itself, before its record is read from the log."""
        self._positions[key] = _latest([position, self.last_erasure(key)])

    def last_erasure(self, key: str) -> ErasurePosition:
        """The last erasure under this key; NEVER if there is none."""
        return self._positions.get(key, NEVER)

    @property
    def empty(self) -> bool:
        return not self._positions

    def last_erasure_of_image(self, directory: str | None, person: str | None, image_id: str) -> ErasurePosition:
        """The last erasure of an image, of the face that is learned from it, or of its directory or person; NEVER where
        there is none. It applies to the image if the image was received before it.
        """
        if self.empty:
            return NEVER
        keys = [image_erasure_key(image_id), face_erasure_key(learned_face_id(image_id))]
        if directory is not None:
            keys.append(directory_erasure_key(directory))
            if person is not None:
                keys.append(person_erasure_key(directory, person))
        return _latest([self.last_erasure(key) for key in keys])

    def erased_since(self, directory: str | None, person: str | None, image_id: str, received_at: int) -> bool:
        """Whether an image was erased after it was received. received_at: ms."""
        return self.last_erasure_of_image(directory, person, image_id).time_ms >= received_at

    def last_erasure_of_face(self, directory: str, person: str, face_id: str) -> ErasurePosition:
        """The last erasure of a face, or of its person or directory."""
        keys = (directory_erasure_key(directory), person_erasure_key(directory, person), face_erasure_key(face_id))
        return _latest([self.last_erasure(key) for key in keys])


def _latest(positions: list[ErasurePosition]) -> ErasurePosition:
    """The largest time and the largest offset, independently: if the clock was set back between two commands, the later
    one has the smaller time.
    """
    return ErasurePosition(max(it.time_ms for it in positions), max(it.offset for it in positions))


def object_keys_of_image(image_id: str) -> list[str]:
    """The keys of all objects that may be stored for an image."""
    return [*original_keys(image_id), sheet_key(image_id), crop_key(learned_face_id(image_id))]


def is_erased(received: ImageReceived, received_at: int, erasures: Erasures) -> bool:
    """Whether an image was erased after it was received. received_at: ms."""
    return erasures.erased_since(received.directory, received.person, received.image_id, received_at)
