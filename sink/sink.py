"""The stage behind `faces.embedded`: learned faces go to the vector store and into the gallery, probes are matched, both are
answered.

It gets the records of one directory at a time, in order; other directories go on while one's gallery is loaded. Learns come
first, all at once: none of them has been acknowledged yet, and whatever was acknowledged before is in the gallery (rule 3 of the
design).
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backends.log import Committed, NewRecord, Record, TopicPartition, partition_of
from backends.objects import ObjectStore
from backends.vectors import Face, FaceVector, VectorStore
from schemas.errors import UnreadableRecord
from schemas.records import EmbeddedFace, FaceLearned, FacesEmbedded, ImageReceived
from sink.galleries import Galleries
from sink.matching import Photo, matched
from stream.answers import answer, envelope
from stream.topics import FACES_EMBEDDED, FACES_LEARNED, PARTITIONS
from weights.manifest import EmbedderModel, Manifest

Event = tuple[Record, FacesEmbedded]


class Sink:
    """Stage of the consumer group `sink`."""

    name = "sink"

    def __init__(self, vectors: VectorStore, objects: ObjectStore, manifest: Manifest, gallery_memory: int) -> None:
        self._vectors, self._objects, self._manifest = vectors, objects, manifest
        self._galleries = Galleries(vectors, gallery_memory)
        self._at: dict[int, int] = {}  # the next offset of each partition that the galleries have seen
        self._decoded: dict[tuple[int, int], FacesEmbedded] = {}  # from `sequence_of` until `handle`

    @property
    def leads(self) -> bool:
        """Whether this is the one sink, of all, that does what is to be done once."""
        return 0 in self._at

    async def assigned(self, assignment: Mapping[TopicPartition, Committed]) -> None:
        """Keeps only the galleries that are as of the committed offset."""
        self._decoded.clear()
        current = {at.partition for at, committed in assignment.items() if self._at.get(at.partition) == committed.offset}
        self._galleries.drop(lambda directory: partition_of(directory, PARTITIONS) not in current)
        self._at = {at.partition: committed.offset for at, committed in assignment.items()}

    def sequence_of(self, record: Record) -> str:
        """The directory, whose records keep their order; "" for a record that cannot be read."""
        try:
            event = self._decoded[record.partition, record.offset] = FacesEmbedded.decode(record.value)
        except UnreadableRecord:
            return ""
        return event.received.directory or ""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        events = [(record, self._event(record)) for record in records]
        for record, event in events:
            _check(record, event, self._manifest)
        outputs = await self._learn([it for it in events if it[1].received.purpose == "learn"])
        outputs += await self._recognize([it for it in events if it[1].received.purpose == "recognize"])
        last = records[-1]
        self._at[last.partition] = max(self._at.get(last.partition, 0), last.offset + 1)
        return outputs

    def _event(self, record: Record) -> FacesEmbedded:
        return self._decoded.pop((record.partition, record.offset), None) or FacesEmbedded.decode(record.value)

    def received(self, record: Record) -> ImageReceived:
        return FacesEmbedded.decode(record.value).received

    async def probe(self) -> None:
        await self._vectors.ping()

    async def _learn(self, events: list[Event]) -> list[NewRecord]:
        outputs: list[NewRecord] = []
        new: list[FaceVector] = []
        known: dict[tuple[str, str], dict[str, Face]] = {}  # by directory and person: the faces by source
        for record, event in events:
            received, face = event.received, event.faces[0]
            directory, person = received.directory or "", received.person or ""
            if (directory, person) not in known:
                known[directory, person] = await self._faces_by_source(event)
            source = face.source or ""
            same = known[directory, person].setdefault(
                source, Face(person, face.face_id, received.image_id, source, record.timestamp)
            )
            if same.image_id != received.image_id:
                await self._forget(received, face)
                outputs.append(answer(received, 200, _learned(event, same.image_id, same.face_id)))
                continue
            new += [FaceVector(directory, generation, same, face.vector(generation)) for generation in face.vectors]
            outputs += [_changelog(event, same), answer(received, 201, _learned(event, received.image_id, face.face_id))]
        if new:
            await self._vectors.put_faces(new)
            self._galleries.learned(new)
        return outputs

    async def _faces_by_source(self, event: FacesEmbedded) -> dict[str, Face]:
        """The faces of the person of a learn. Who is not in the gallery has none, and the store is not asked."""
        directory, generation = event.received.directory or "", event.models.generation or ""
        person = event.received.person or ""
        dimension = self._manifest.embedder(event.models.embedder or "").dimension
        if not (await self._galleries.get(directory, generation, dimension)).knows(person):
            return {}
        return {it.source: it for it in await self._vectors.faces(directory, generation, person)}

    async def _forget(self, received: ImageReceived, face: EmbeddedFace) -> None:
        """The same picture of the same person is there already: its second copy is not kept."""
        await self._objects.delete([received.object_key, *([face.crop.object_key] if face.crop else [])])

    async def _recognize(self, events: list[Event]) -> list[NewRecord]:
        outputs = []
        by_gallery: dict[tuple[str, str, str], list[FacesEmbedded]] = {}
        for _, event in events:
            key = (event.received.directory or "", event.models.generation or "", event.models.embedder or "")
            by_gallery.setdefault(key, []).append(event)
        for (directory, generation, embedder), of_one in by_gallery.items():
            model = self._manifest.embedder(embedder)
            gallery = await self._galleries.get(directory, generation, model.dimension)
            photos = [_photo(event, generation, model.dimension) for event in of_one]
            for event, persons in zip(of_one, await asyncio.to_thread(matched, photos, gallery, model), strict=True):
                outputs.append(answer(event.received, 200, envelope(event.received, persons, event.models)))
        return outputs


def _photo(event: FacesEmbedded, generation: str, dimension: int) -> Photo:
    embedded = [i for i, face in enumerate(event.faces) if face.vectors]
    vectors = np.array([event.faces[i].vector(generation) for i in embedded], np.float32).reshape(len(embedded), dimension)
    return Photo(event.faces, vectors, embedded, event.received.options)


def _check(record: Record, event: FacesEmbedded, manifest: Manifest) -> None:
    """Raises UnreadableRecord for what another producer may get wrong: everything else here may rely on it."""
    received, models = event.received, event.models
    if record.topic != FACES_EMBEDDED or received.purpose == "detect" or received.directory is None:
        raise UnreadableRecord("faces.embedded carries learn and recognize, with a directory")
    embedder = manifest.models.get(models.embedder or "")
    if not isinstance(embedder, EmbedderModel) or models.generation is None:
        raise UnreadableRecord(f"the embedder '{models.embedder}' is not in the manifest")
    for face in event.faces:
        if face.vectors and models.generation not in face.vectors:
            raise UnreadableRecord(f"a face has no vector of the generation '{models.generation}'")
        for generation in face.vectors:
            if not _is_vector(face, generation, embedder.dimension):
                raise UnreadableRecord(f"a vector of '{generation}' is not {embedder.dimension} numbers with a length")
    if received.purpose == "learn":
        complete = len(event.faces) == 1 and event.faces[0].vectors and event.faces[0].crop and event.faces[0].source
        if received.person is None or not complete:
            raise UnreadableRecord("a learn carries a person and one face with vectors, crop and source")


def _is_vector(face: EmbeddedFace, generation: str, dimension: int) -> bool:
    try:
        vector = face.vector(generation)
    except ValueError:  # no base64, or no whole numbers
        return False
    with np.errstate(all="ignore"):
        length = np.linalg.norm(vector)
    return vector.shape == (dimension,) and bool(0 < length < np.inf)


def _learned(event: FacesEmbedded, image_id: str, face_id: str) -> dict[str, Any]:
    face = event.faces[0]
    person = {
        "id": event.received.person,
        "box": face.box,
        "score": face.score,
        "detection_score": face.detection_score,
        "face_id": face_id,
    }
    ignored = [{"box": it.box, "score": it.score, "detection_score": it.detection_score} for it in event.ignored]
    return envelope(event.received, [person], event.models, image_id=image_id, ignored=ignored)


def _changelog(event: FacesEmbedded, face: Face) -> NewRecord:
    crop = event.faces[0].crop
    assert crop is not None
    value = FaceLearned(
        directory=event.received.directory or "",
        person=face.person,
        face_id=face.face_id,
        image_id=face.image_id,
        source=face.source,
        crop=crop,
        detector=event.models.detector,
    )
    return NewRecord(FACES_LEARNED, face.image_id, value.encode(), event.received.directory)
