"""The stage behind `faces.embedded`: stores learned faces and adds them to the gallery, matches probes, answers both,
and carries out erase commands.

It gets the records of one directory at a time, in order; other directories are handled while a gallery is loaded.
Between two erase commands, all learns are handled first and together. That is allowed because none of them has been
acknowledged yet, and everything that was acknowledged before is in the gallery (rule 3 of docs/architecture.md).
"""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from backends.log import CommittedOffset, EventLog, NewRecord, Record, TopicPartition, partition_of
from backends.objects import ObjectDeleter
from backends.vectors import Face, FaceVector, VectorDeleter
from schemas.answers import IgnoredFace, LearnedBody, LearnedPerson
from schemas.errors import Erased, GenerationRetired, UnreadableRecord
from schemas.faces import decode_vector
from schemas.generation_records import Generation
from schemas.records import EraseRequested, FaceLearned, FacesEmbedded, FacesReembedded, ImageReceived, decode_embedded
from sink.checks import check_event
from sink.erase import Eraser
from sink.match.galleries import Galleries
from sink.match.matching import Photo, match_photos
from stream.answers import answer_record, error_answer_record, learned_body, recognized_body
from stream.erase.erasures import Erasures
from stream.erase.guarded_store import GuardedStore
from stream.generations import Generations
from stream.topics import PARTITIONS

Event = FacesEmbedded | EraseRequested | FacesReembedded

# Matching this many faces takes about as long as a switch to a thread and back.
FEW_FACES, SMALL_GALLERY = 8, 256


class Sink:
    """Stage of the consumer group `sink`. `gallery_memory` in bytes."""

    name = "sink"

    def __init__(
        self,
        log_: EventLog,
        objects: ObjectDeleter,
        vectors: VectorDeleter,
        store: GuardedStore,
        generations: Generations,
        erasures: Erasures,
        gallery_memory: int,
    ) -> None:
        self._vectors, self._store = vectors, store
        self._generations, self._erasures = generations, erasures
        self._galleries = Galleries(vectors, gallery_memory)
        self._eraser = Eraser(log_, objects, vectors, store, generations, erasures, self._galleries)
        self._next_offsets: dict[int, int] = {}  # by partition: the offset up to which the galleries are complete
        self._decoded: dict[tuple[int, int], Event] = {}  # from `sequence_of` until `handle`
        self._may_have_missed_erasures = True
        self._versions: dict[int, int] = {}  # by partition: the highest version that a row of its records may have

    @property
    def is_leader(self) -> bool:
        """Whether this sink is the one that does the work that only one sink must do."""
        return 0 in self._next_offsets

    async def on_assignment(self, assignment: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Keeps the galleries that are complete up to the committed offset, and drops the others. Erasures by previous
        owners are read from the log with the next records.
        """
        self._decoded.clear()
        committed_offsets = {at.partition: committed.offset for at, committed in assignment.items()}
        current = {it for it, offset in committed_offsets.items() if self._next_offsets.get(it) == offset}
        self._galleries.drop(lambda directory: partition_of(directory, PARTITIONS) not in current)
        self._next_offsets = committed_offsets
        self._may_have_missed_erasures = True

    def sequence_of(self, record: Record) -> str:
        """The directory, whose records keep their order; "" for a record that cannot be read."""
        try:
            event = self._decoded[record.partition, record.offset] = decode_embedded(record.value)
        except UnreadableRecord:
            return ""
        return _directory_of(event)

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        if self._may_have_missed_erasures:
            await self._erasures.refresh()
            self._may_have_missed_erasures = False
        events = [(record, self._take_decoded(record)) for record in records]
        for record, event in events:
            await check_event(record, event, self._generations)
        outputs: list[NewRecord] = []
        for erases, group in groupby(events, key=lambda it: isinstance(it[1], EraseRequested)):
            part = list(group)
            if erases:
                for record, event in part:
                    self._raise_version(record, event)
                    assert isinstance(event, EraseRequested)
                    outputs += await self._eraser.erase(record, event, self._versions[record.partition])
                continue
            for record, event in part:
                self._raise_version(record, event)
            await self._store_reembedded([event for _, event in part if isinstance(event, FacesReembedded)])
            images = [(record, event) for record, event in part if isinstance(event, FacesEmbedded)]
            outputs += await self._learn([it for it in images if it[1].received.purpose == "learn"])
            outputs += await self._recognize([it for it in images if it[1].received.purpose == "recognize"])
        last = records[-1]
        self._next_offsets[last.partition] = max(self._next_offsets.get(last.partition, 0), last.offset + 1)
        return outputs

    def _raise_version(self, record: Record, event: Event) -> None:
        received_at = event.received_at if isinstance(event, FacesEmbedded) else 0
        self._versions[record.partition] = max(self._versions.get(record.partition, 0), record.timestamp, received_at)

    def _take_decoded(self, record: Record) -> Event:
        return self._decoded.pop((record.partition, record.offset), None) or decode_embedded(record.value)

    def event_of(self, record: Record) -> ImageReceived | EraseRequested:
        event = decode_embedded(record.value)
        if isinstance(event, FacesReembedded):
            raise UnreadableRecord("nobody waits for an answer to faces that are embedded again")
        if isinstance(event, EraseRequested):
            return event
        return event.received.model_copy(update={"received_at": event.received_at})

    async def check_stores(self) -> None:
        await self._vectors.ping()

    async def _learn(self, events: list[tuple[Record, FacesEmbedded]]) -> list[NewRecord]:
        outputs: list[NewRecord] = []
        new: list[FaceVector] = []
        known: dict[tuple[str, str], dict[str, Face]] = {}  # by directory and person, then by source
        for record, event in events:
            received, face = event.received, event.faces[0]
            directory, person = received.directory or "", received.person or ""
            if erased := await self._erasure_error(record, event):
                outputs.append(error_answer_record(received, erased))
                continue
            generations = [it for it in map(self._generations.get, face.vectors) if it.is_live]
            if not generations:
                raise GenerationRetired(
                    "every model that this face was embedded with is retired by now: send the image again"
                )
            if (directory, person) not in known:
                known[directory, person] = await self._faces_by_source(directory, person, generations)
            source = face.source or ""
            version = max(
                record.timestamp,
                event.received_at,
                self._erasures.next_version(directory, person, received.image_id),
            )
            same = known[directory, person].setdefault(
                source, Face(person, face.face_id, received.image_id, source, version)
            )
            if same.image_id != received.image_id:
                outputs.append(
                    answer_record(received, 200, _learned_body(event, same.image_id, same.face_id), record.offset)
                )
                continue
            new += [FaceVector(directory, it.name, same, face.vector(it.name)) for it in generations]
            learned = _learned_body(event, received.image_id, face.face_id)
            outputs += self._store.changelog_records([_face_learned_record(event, same, generations)])
            outputs.append(answer_record(received, 201, learned, record.offset))
        await self._put_faces(new)
        return outputs

    async def _store_reembedded(self, events: list[FacesReembedded]) -> None:
        """Stores the vectors of another generation for faces that were learned before."""
        new: list[FaceVector] = []
        for event in events:
            if not self._generations.get(event.generation).is_live:
                continue
            for it in event.faces:
                face = Face(it.person, it.face_id, it.image_id, it.source, it.learned_at)
                new.append(FaceVector(event.directory, event.generation, face, decode_vector(it.vector)))
        await self._put_faces(new)

    async def _put_faces(self, new: list[FaceVector]) -> None:
        if new:
            listed = self._galleries.loaded_with_faces({(it.directory, it.generation) for it in new})
            self._galleries.add_learned(await self._store.put_faces(new, listed=listed))

    async def _erasure_error(self, record: Record, event: FacesEmbedded) -> Erased | None:
        """The error to answer with if the image was erased after it came."""
        try:
            await self._store.drop_if_erased(event.received, record.offset)
        except Erased as erased:
            return erased
        return None

    async def _faces_by_source(self, directory: str, person: str, generations: list[Generation]) -> dict[str, Face]:
        """The known faces of a person to learn, by source. If the person is not in the gallery, the store is not
        read.
        """
        active = self._generations.active
        generation = active if active in generations else generations[0]
        if not (await self._galleries.get(directory, generation.name, generation.dimension)).has_person(person):
            return {}
        return {it.source: it for it in await self._vectors.faces(directory, generation.name, person)}

    async def _recognize(self, events: list[tuple[Record, FacesEmbedded]]) -> list[NewRecord]:
        outputs: list[NewRecord] = []
        by_gallery: dict[tuple[str, str], list[tuple[Record, FacesEmbedded]]] = {}
        for record, event in events:
            received = event.received
            if erased := await self._erasure_error(record, event):
                outputs.append(error_answer_record(received, erased))
            else:
                by_gallery.setdefault((received.directory or "", event.models.generation or ""), []).append(
                    (record, event)
                )
        for (directory, name), of_one in by_gallery.items():
            generation = self._generations.get(name)
            if generation.state == "retired":
                raise GenerationRetired(f"the generation '{name}' is retired by now: send the image again")
            gallery = await self._galleries.get(directory, name, generation.dimension)
            photos = [_photo(event, generation) for _, event in of_one]
            if sum(len(it.faces) for it in photos) <= FEW_FACES and gallery.faces <= SMALL_GALLERY:
                found = match_photos(photos, gallery, generation)
            else:
                found = await asyncio.to_thread(match_photos, photos, gallery, generation)
            for (record, event), persons in zip(of_one, found, strict=True):
                outputs.append(
                    answer_record(
                        event.received, 200, recognized_body(event.received, persons, event.models), record.offset
                    )
                )
        return outputs


def _directory_of(event: Event) -> str:
    return (event.received.directory if isinstance(event, FacesEmbedded) else event.directory) or ""


def _photo(event: FacesEmbedded, generation: Generation) -> Photo:
    embedded = [i for i, face in enumerate(event.faces) if face.vectors]
    vectors = np.array([event.faces[i].vector(generation.name) for i in embedded], np.float32)
    return Photo(event.faces, vectors.reshape(len(embedded), generation.dimension), embedded, event.received.options)


def _learned_body(event: FacesEmbedded, image_id: str, face_id: str) -> LearnedBody:
    face = event.faces[0]
    person = LearnedPerson(
        id=event.received.person or "",
        box=face.box,
        score=face.score,
        detection_score=face.detection_score,
        face_id=face_id,
    )
    ignored = [IgnoredFace(box=it.box, score=it.score, detection_score=it.detection_score) for it in event.ignored]
    return learned_body(event.received, person, ignored, event.models, image_id)


def _face_learned_record(event: FacesEmbedded, face: Face, generations: list[Generation]) -> FaceLearned:
    crop = event.faces[0].crop
    assert crop is not None
    return FaceLearned(
        directory=event.received.directory or "",
        person=face.person,
        face_id=face.face_id,
        image_id=face.image_id,
        source=face.source,
        crop=crop,
        detector=event.models.detector,
        box=event.faces[0].box,
        learned_at=face.timestamp,
        generations=[it.name for it in generations],
    )
