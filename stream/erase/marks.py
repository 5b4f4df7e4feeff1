"""What was erased, as every role holds it in memory (rule 6 of the design)."""

from typing import NamedTuple

import structlog

from backends.log import EventLog, Record
from backends.objects import ObjectStore
from schemas.erasures import erased_directory, erased_face, erased_image, erased_person
from schemas.errors import Erased, UnreadableRecord
from schemas.ids import crop_key, face_id_learned, original_keys, sheet_key
from schemas.records import Erasure, ImageReceived
from stream.following import Following
from stream.sources import own_source
from stream.topics import ERASURES

log = structlog.get_logger(__name__)


class Mark(NamedTuple):
    """The command's append time in ms, and its offset in the directory's partition of `faces.embedded`."""

    at: int
    offset: int


NEVER = Mark(-1, -1)


class Erasures(Following):
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
        """One that this process has carried out itself: it counts before it has come round."""
        self._marks[key] = _latest([mark, self.of(key)])

    def of(self, key: str) -> Mark:
        """The last erasure under this key; NEVER where there is none."""
        return self._marks.get(key, NEVER)

    @property
    def empty(self) -> bool:
        return not self._marks

    def of_image(self, directory: str | None, person: str | None, image_id: str) -> Mark:
        """The last erasure that an image fell under, if it came before it: what it shows is for nobody then. NEVER
        where there is none.
        """
        keys = [erased_image(image_id), erased_face(face_id_learned(image_id))]
        if directory is not None:
            keys.append(erased_directory(directory))
            if person is not None:
                keys.append(erased_person(directory, person))
        return _latest([self.of(key) for key in keys])

    def covers(self, directory: str | None, person: str | None, image_id: str, came_at: int) -> bool:
        """Whether an image was erased after it came. came_at: ms."""
        return self.of_image(directory, person, image_id).at >= came_at

    def of_person(self, directory: str, person: str, face_id: str) -> Mark:
        """The last erasure that a face of a person in a directory fell under."""
        keys = (erased_directory(directory), erased_person(directory, person), erased_face(face_id))
        return _latest([self.of(key) for key in keys])


def _latest(marks: list[Mark]) -> Mark:
    """Each by itself: the clock may have been set back between two commands, and a later one has the smaller time."""
    return Mark(max(it.at for it in marks), max(it.offset for it in marks))


def objects_of(image_id: str) -> list[str]:
    """The keys of all that may be kept of an image."""
    return [*original_keys(image_id), sheet_key(image_id), crop_key(face_id_learned(image_id))]


def is_erased(received: ImageReceived, received_at: int, erasures: Erasures) -> bool:
    """Whether an image was erased after it came. received_at: ms."""
    return erasures.covers(received.directory, received.person, received.image_id, received_at)


async def drop_if_erased(received: ImageReceived, received_at: int, erasures: Erasures, objects: ObjectStore) -> None:
    """Raises Erased for an image that was erased after it came; what is kept of it goes again, since somebody may have
    been at work on it.
    """
    if is_erased(received, received_at, erasures):
        source = own_source(received, objects)
        await objects.delete([*objects_of(received.image_id), *([source] if source else [])])
        raise Erased("this was erased after the image came: send it again if it is wanted after all")
