"""Searches for erased data: what is left of it in the stores, and which records of topics still name it."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import structlog

from backends.log import EventLog, Record
from backends.objects import ObjectReader
from backends.vectors import Face, VectorReader
from facestream.progress import progress_bar
from schemas.bucket_events import BucketNotified
from schemas.cloudevents import decode_image_received
from schemas.errors import UnreadableRecord
from schemas.ids import image_id_of_object
from schemas.object_metadata import ObjectMetadata
from schemas.records import (
    Answer,
    EraseRequested,
    FaceLearned,
    FacesDetected,
    FacesEmbedded,
    ImageReceived,
    decode_embedded,
)
from stream.dead_letters import Letter, read_letter
from stream.erase.erasures import Erasures, position_of
from stream.erase.redaction import redact
from stream.generations import Generations
from stream.incoming import INCOMING, read_incoming_key
from stream.object_listing import list_with_metadata
from stream.topic_reading import read_topic
from stream.topics import (
    BUCKET_EVENTS,
    DEAD_LETTERS,
    FACES_DETECTED,
    FACES_EMBEDDED,
    FACES_LEARNED,
    IMAGES_RECEIVED,
    IMAGES_RECEIVED_BULK,
    RESULTS,
)

log = structlog.get_logger(__name__)

PROBES = "probes/"
PICTURES = ("originals/", PROBES)
CROPS = "crops/"


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """An object whose image, person or directory was erased at some time. `began_before`: the process that stored it
    did not know of the last of these erasures yet. `is_older`: it is an older version of the object.
    """

    key: str
    is_older: bool
    image_id: str
    directory: str
    person: str | None
    began_before: bool

    @property
    def is_crop(self) -> bool:
        return self.key.startswith(CROPS)


@dataclass(frozen=True, slots=True)
class TopicMatches:
    """How many records of a topic name erased data, and when the last of them was appended (ms)."""

    records: int = 0
    last: int = 0


async def read_all_faces(vectors: VectorReader, generations: Generations) -> AsyncIterator[tuple[str, Face]]:
    """The faces of every generation, each with its directory. Raises Unavailable."""
    for generation in generations.all:
        for directory in await vectors.directories(generation.name):
            async for page in vectors.read_faces(directory, generation.name):
                for face in page:
                    yield directory, face


async def find_erased_vectors(vectors: VectorReader, generations: Generations, erasures: Erasures) -> list[str]:
    """The face_ids of erased faces. Raises Unavailable, as the other searches do."""
    found: list[str] = []
    async for directory, it in read_all_faces(vectors, generations):
        if erasures.cover_row(directory, it.person, it.image_id, it.timestamp):
            found.append(it.face_id)
    return found


async def find_erased_answers(vectors: VectorReader, erasures: Erasures) -> list[str]:
    """The image_ids of answers that still name an erased person."""
    found: list[str] = []
    async for page in vectors.read_answers():
        for stored in page:
            try:
                answer = Answer.decode(stored.value.encode())
            except UnreadableRecord as error:  # of another release, which can tell
                log.warning("unreadable answer", image_id=stored.image_id, reason=error.message)
                continue
            if redact(answer, erasures) is not answer:
                found.append(answer.image_id)
    return found


async def find_pictures(objects: ObjectReader, erasures: Erasures) -> list[StoredPicture]:
    """The objects that may have been erased: what the topics and the rows say of their images decides."""
    found: list[StoredPicture] = []
    with progress_bar("objects", 0, always=False) as advance:
        async for info, stored in list_with_metadata(objects, *PICTURES, CROPS):
            advance(1)
            metadata = ObjectMetadata.decode(stored)
            image_id = metadata.image_id or info.key.partition("/")[2].removesuffix(".crops")
            if known := erasures.of_image(metadata.directory, metadata.person, image_id):
                last, seen = max(it.first_record for it in known), metadata.erasures_seen
                # An older version does not say. Its probes may be older than all events, which tell more.
                began_before = seen <= last if seen is not None else not info.key.startswith(PROBES)
                found.append(
                    StoredPicture(
                        key=info.key,
                        is_older=info.version is not None,
                        image_id=image_id,
                        directory=metadata.directory or "",
                        person=metadata.person,
                        began_before=began_before,
                    )
                )
    return found


async def is_learned(
    picture: StoredPicture, vectors: VectorReader, generations: Generations, erasures: Erasures
) -> bool:
    """Whether a face of the picture is in a gallery, and was not erased."""
    if picture.person is None:
        return False
    for generation in generations.all:
        for it in await vectors.faces(picture.directory, generation.name, picture.person):
            if it.image_id == picture.image_id and not erasures.cover_row(
                picture.directory, it.person, it.image_id, it.timestamp
            ):
                return True
    return False


async def search_topic(
    log: EventLog, topic: str, erasures: Erasures, announced: dict[str, bool | None]
) -> TopicMatches:
    """Searches a topic. announced: by image_id. It is set to whether all events of the image are covered by an erasure,
    and stays None if there is no event. A face in the changelog that is not covered counts as such an event.
    """
    found = TopicMatches()

    def take(records: Sequence[Record]) -> None:
        nonlocal found
        for record in records:
            try:
                names_erased = record.value is not None and _names_erased(record, erasures, announced)
            except UnreadableRecord:
                continue
            if names_erased:
                found = TopicMatches(found.records + 1, max(found.last, record.timestamp))

    await read_topic(log, topic, take)
    return found


def _names_erased(record: Record, erasures: Erasures, announced: dict[str, bool | None]) -> bool:
    """Whether a record names erased data. Raises UnreadableRecord."""
    event: ImageReceived | None
    if record.topic in (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK):
        event = decode_image_received(record.value, record.headers).with_origin(position_of(record))
    elif record.topic == DEAD_LETTERS:
        letter = read_letter(record)
        event = letter.event if isinstance(letter, Letter) else None
    else:
        erased = RECORD_CHECKS[record.topic](record, erasures)
        if record.topic == FACES_LEARNED.name and record.key in announced and not erased:
            announced[record.key] = False
        return erased
    erased = event is not None and erasures.cover_image(event)
    if event is not None and event.image_id in announced:
        announced[event.image_id] = erased and announced[event.image_id] is not False
    return erased


def _detected_names_erased(record: Record, erasures: Erasures) -> bool:
    event = FacesDetected.decode(record.value)
    return erasures.cover_image(event.received)


def _embedded_names_erased(record: Record, erasures: Erasures) -> bool:
    event = decode_embedded(record.value)
    if isinstance(event, EraseRequested):
        return True  # its key names a person or a directory
    if isinstance(event, FacesEmbedded):
        return erasures.cover_image(event.received, record.offset)
    return any(erasures.cover_row(event.directory, it.person, it.image_id, it.learned_at) for it in event.faces)


def _learned_names_erased(record: Record, erasures: Erasures) -> bool:
    face = FaceLearned.decode(record.value)
    return erasures.cover_row(face.directory, face.person, face.image_id, face.learned_at)


def _result_names_erased(record: Record, erasures: Erasures) -> bool:
    answer = Answer.decode(record.value)
    return answer.purpose == "erase" or redact(answer, erasures) is not answer


def _notification_names_erased(record: Record, erasures: Erasures) -> bool:
    """Whether a notification names an erased object. Its keys contain names of directories and people, perhaps after a
    prefix.
    """
    for it in BucketNotified.decode(record.value).records:
        bucket, name, etag = it.s3.bucket.name, it.s3.object.name, it.s3.object.etag
        read = read_incoming_key(name[max(0, name.find(INCOMING)) :])
        if read is not None:
            _, directory, person = read
            if erasures.cover_origin(directory, person, image_id_of_object(bucket, name, etag), position_of(record)):
                return True
    return False


RECORD_CHECKS: dict[str, Callable[[Record, Erasures], bool]] = {
    FACES_DETECTED: _detected_names_erased,
    FACES_EMBEDDED: _embedded_names_erased,
    FACES_LEARNED.name: _learned_names_erased,
    RESULTS: _result_names_erased,
    BUCKET_EVENTS: _notification_names_erased,
}
SEARCHED_TOPICS = (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, DEAD_LETTERS, *RECORD_CHECKS)
