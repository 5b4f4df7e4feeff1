"""The erasures that every role keeps in memory (rule 6 of docs/architecture.md), and the order of images and erasures.

No clock takes part. An image is erased if its origin lies below the cut of an erasure. In a directory's partition of
`faces.embedded` the offset decides, and rows of the vector store and the changelog have versions that grow with each
erasure.
"""

import uuid
from collections.abc import Iterable
from typing import NamedTuple

import structlog

from backends.log import EventLog, NewRecord, Record
from schemas.erasure_records import Erasure, LogIdentity
from schemas.erasures import directory_erasure_key, face_erasure_key, image_erasure_key, person_erasure_key
from schemas.errors import UnreadableRecord
from schemas.ids import crop_key, learned_face_id, original_keys, sheet_key
from schemas.origins import Origin
from schemas.records import ImageReceived
from stream.topic_follower import TopicFollower
from stream.topics import ERASURES

log = structlog.get_logger(__name__)

IDENTITY_KEY = "log"
NO_OFFSET, NO_VERSION = -1, -1


class KnownErasure(NamedTuple):
    """The last erasure under a key. `version`: rows up to it are erased. `offset`: that of the command in the
    directory's partition. `first_record`: the offset in `erasures` from which on it was known.
    """

    erasure: Erasure
    first_record: int

    @property
    def version(self) -> int:
        return self.erasure.at

    @property
    def offset(self) -> int:
        return self.erasure.offset


class Erasures(TopicFollower):
    """The last erasure of each person, directory, face and image."""

    def __init__(self, log_: EventLog) -> None:
        super().__init__(log_, ERASURES)
        self._known: dict[str, KnownErasure] = {}
        self.log_id = ""

    def apply(self, record: Record) -> None:
        try:
            if record.key == IDENTITY_KEY:
                self.log_id = LogIdentity.decode(record.value).id
                known = self._known.items()
                self._known = {key: it._replace(erasure=self._of_this_log(it.erasure)) for key, it in known}
                return
            erasure = Erasure.decode(record.value)
        except UnreadableRecord as error:
            log.error("unreadable erasure", offset=record.offset, reason=error.message)
            return
        self.add(record.key, erasure, record.offset)

    def add(self, key: str, erasure: Erasure, record_offset: int = 0) -> None:
        """Adds an erasure. record_offset: that of its record in `erasures`."""
        erasure = self._of_this_log(erasure)
        first_record = record_offset if erasure.first_record is None else erasure.first_record
        if (before := self._known.get(key)) is not None:
            earlier = before.erasure
            if earlier.offset >= erasure.offset:
                first_record = before.first_record
            if earlier.offset > erasure.offset:  # a command that was carried out again, by an older version
                earlier, erasure = erasure, earlier
            cut = erasure.cut
            if cut is not None and earlier.offset < erasure.offset:
                cut = cut.united(earlier.cut)
            erasure = erasure.model_copy(update={"at": max(erasure.at, earlier.at), "cut": cut})
        self._known[key] = KnownErasure(erasure, first_record)

    def _of_this_log(self, erasure: Erasure) -> Erasure:
        """The erasure without its offsets if they are those of another log."""
        if erasure.log == self.log_id:
            return erasure
        return erasure.model_copy(update={"offset": NO_OFFSET, "cut": None})

    def get(self, key: str) -> KnownErasure | None:
        return self._known.get(key)

    def items(self) -> list[tuple[str, KnownErasure]]:
        return list(self._known.items())

    @property
    def empty(self) -> bool:
        return not self._known

    @property
    def seen(self) -> int:
        """The offset of the next record in `erasures`: what an upload that begins now knows of."""
        return self._next_offset

    def of_image(self, directory: str | None, person: str | None, image_id: str) -> list[KnownErasure]:
        """The erasures that may cover an image: of itself, of the face that is learned from it, of its directory and of
        its person.
        """
        if self.empty:
            return []
        keys = [image_erasure_key(image_id), face_erasure_key(learned_face_id(image_id))]
        if directory is not None:
            keys.append(directory_erasure_key(directory))
            if person is not None:
                keys.append(person_erasure_key(directory, person))
        return [known for key in keys if (known := self._known.get(key)) is not None]

    def of_face(self, directory: str, person: str, face_id: str) -> list[KnownErasure]:
        """The erasures that may cover a learned face."""
        keys = (directory_erasure_key(directory), person_erasure_key(directory, person), face_erasure_key(face_id))
        return [known for key in keys if (known := self._known.get(key)) is not None]

    def cover_image(self, received: ImageReceived, offset: int | None = None) -> bool:
        """Whether an image was erased after it came. offset: that of its record in the directory's partition of
        `faces.embedded`, if it has come so far.
        """
        names = received.directory, received.person, received.image_id
        return self.cover_origin(*names, received.origin) or (
            offset is not None and offset < last_offset(self.of_image(*names))
        )

    def cover_origin(self, directory: str | None, person: str | None, image_id: str, origin: Origin | None) -> bool:
        """Whether an image was erased after its first record."""
        cuts = [it.erasure.cut for it in self.of_image(directory, person, image_id)]
        return any(it is not None and it.covers(origin) for it in cuts)

    def cover_row(self, directory: str, person: str, image_id: str, version: int) -> bool:
        """Whether a row of the vector store, or a record of the changelog, was erased after it was written."""
        return any(it.version >= version for it in self.of_image(directory, person, image_id))

    def next_version(self, directory: str, person: str, image_id: str) -> int:
        """The least version of a row that no erasure so far covers."""
        return 1 + max((it.version for it in self.of_image(directory, person, image_id)), default=NO_VERSION)


def identity_record() -> NewRecord:
    """The record that gives the log a new id. Without one its id is empty."""
    return NewRecord(ERASURES, IDENTITY_KEY, LogIdentity(id=uuid.uuid4().hex).encode())


def last_offset(known: Iterable[KnownErasure]) -> int:
    """The offset of the last of these erasures in the directory's partition; NO_OFFSET without any."""
    return max((it.offset for it in known), default=NO_OFFSET)


def object_keys_of_image(image_id: str) -> list[str]:
    """The keys of all objects that may be stored for an image."""
    return [*original_keys(image_id), sheet_key(image_id), crop_key(learned_face_id(image_id))]


def position_of(record: Record) -> Origin:
    """The position of a record, which is an image's origin if it is the first one of the image."""
    return Origin(topic=record.topic, partition=record.partition, offset=record.offset)
