"""The erasures that every role keeps in memory (rule 6 of docs/architecture.md)."""

from typing import NamedTuple

import structlog

from backends.log import EventLog, Record
from schemas.erasures import erased_directory, erased_face, erased_image, erased_person
from schemas.errors import UnreadableRecord
from schemas.ids import crop_key, face_id_learned, original_keys, sheet_key
from schemas.records import Erasure, ImageReceived
from stream.topic_follower import TopicFollower
from stream.topics import ERASURES

log = structlog.get_logger(__name__)


class Mark(NamedTuple):
    """The position of an erasure: the append time of its command in ms, and the command's offset in the directory's
    partition of `faces.embedded`.
    """

    at: int
    offset: int


NEVER = Mark(-1, -1)


class Erasures(TopicFollower):
    """The last erasure of each person, directory, face and image."""

    def __init__(self, log_: EventLog) -> None:
        super().__init__(log_, ERASURES)
        self._marks: dict[str, Mark] = {}

    def take(self, record: Record) -> None:
        try:
            erasure = Erasure.decode(record.value)
        except UnreadableRecord as error:
            log.error("unreadable erasure", offset=record.offset, reason=error.message)
            return
        self.add(record.key, Mark(erasure.at, erasure.offset))

    def add(self, key: str, mark: Mark) -> None:
        """Adds an erasure that this process has carried out itself, before its record is read from the log."""
        self._marks[key] = _latest([mark, self.mark(key)])

    def mark(self, key: str) -> Mark:
        """The last erasure under this key; NEVER if there is none."""
        return self._marks.get(key, NEVER)

    @property
    def empty(self) -> bool:
        return not self._marks

    def mark_of_image(self, directory: str | None, person: str | None, image_id: str) -> Mark:
        """The last erasure of an image, of the face that is learned from it, or of its directory or person; NEVER where
        there is none. It applies to the image if the image was received before it.
        """
        if self.empty:
            return NEVER
        keys = [erased_image(image_id), erased_face(face_id_learned(image_id))]
        if directory is not None:
            keys.append(erased_directory(directory))
            if person is not None:
                keys.append(erased_person(directory, person))
        return _latest([self.mark(key) for key in keys])

    def erased_since(self, directory: str | None, person: str | None, image_id: str, came_at: int) -> bool:
        """Whether an image was erased after it was received. came_at: ms."""
        return self.mark_of_image(directory, person, image_id).at >= came_at

    def mark_of_face(self, directory: str, person: str, face_id: str) -> Mark:
        """The last erasure of a face, or of its person or directory."""
        keys = (erased_directory(directory), erased_person(directory, person), erased_face(face_id))
        return _latest([self.mark(key) for key in keys])


def _latest(marks: list[Mark]) -> Mark:
    """The largest time and the largest offset, independently: if the clock was set back between two commands, the later
    one has the smaller time.
    """
    return Mark(max(it.at for it in marks), max(it.offset for it in marks))


def object_keys_of_image(image_id: str) -> list[str]:
    """The keys of all objects that may be stored for an image."""
    return [*original_keys(image_id), sheet_key(image_id), crop_key(face_id_learned(image_id))]


def is_erased(received: ImageReceived, received_at: int, erasures: Erasures) -> bool:
    """Whether an image was erased after it was received. received_at: ms."""
    return erasures.erased_since(received.directory, received.person, received.image_id, received_at)
