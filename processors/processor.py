"""The stage behind `images.received`: detect and embed, run in turn; pixels and crops stay in memory.

Faces go to `faces.embedded`. What needs no gallery is answered at once: detect, and a photo without a face.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from backends.log import Committed, NewRecord, Record, TopicPartition
from backends.objects import ObjectStore
from processors import align
from processors.decode import DecodedImage, DecodePool
from processors.detect import as_records, choose, find_faces
from processors.embed import Cutting, embed_crop, embed_probes, encoded_crop
from processors.inference import Inference
from schemas.ids import face_id_learned, source_of_face
from schemas.records import Crop, Detection, EmbeddedFace, FacesEmbedded, ImageReceived, Models, encoded_vector
from stream.answers import answer, envelope
from stream.topics import FACES_EMBEDDED
from weights.manifest import Manifest

SMALLEST_EMBEDDED = 20  # pixels a side: below, eyes are a few pixels apart and strangers look alike


class Processor:
    """Stage of the consumer group `processors`."""

    name = "processors"

    def __init__(
        self, objects: ObjectStore, decoders: DecodePool, cutting: Cutting, inference: Inference, manifest: Manifest
    ) -> None:
        self._objects, self._decoders, self._cutting, self._inference = objects, decoders, cutting, inference
        self._generation = manifest.default_generation
        generation = manifest.generation(self._generation)
        self._detector = manifest.detector(generation.detector)
        self._models = Models(detector=generation.detector, embedder=generation.embedder, generation=self._generation)

    async def assigned(self, assignment: Mapping[TopicPartition, Committed]) -> None:
        """Nothing is held in memory."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        outputs = await asyncio.gather(*(self._one(self.received(record)) for record in records))
        return [record for of_one in outputs for record in of_one]

    def received(self, record: Record) -> ImageReceived:
        return ImageReceived.decode(record.value)

    async def probe(self) -> None:
        await self._objects.ping()

    async def _one(self, received: ImageReceived) -> list[NewRecord]:
        since = time.monotonic()
        stored = await self._objects.get(received.object_key)
        with await self._decoders.decode(stored.data, detail=received.options.detail) as image:
            found = as_records(await find_faces(image, self._inference, since), received, image, self._detector)
            if received.purpose == "detect":
                persons = [face.model_dump() for face in found]
                return [answer(received, 200, envelope(received, persons, Models(detector=self._models.detector)))]
            if received.purpose == "learn":
                face, ignored = choose(found, received.options, self._detector)
                return [self._embedded(received, [await self._learn(received, stored.data, image, face, since)], ignored)]
            if not found:
                return [answer(received, 200, envelope(received, [], self._models))]
            return [self._embedded(received, await self._probe(stored.data, image, found, since), [])]

    async def _learn(
        self, received: ImageReceived, data: bytes, image: DecodedImage, face: Detection, since: float
    ) -> EmbeddedFace:
        """The face with its vector and its crop, which is in the object store by then."""
        landmarks = _array(face)
        with await self._fine_enough(data, image, [landmarks]) as fine:
            crop, crop_landmarks = await self._cutting.run(encoded_crop, fine.pixels, landmarks * fine.scale)
        face_id = face_id_learned(received.image_id)
        crop_key = f"crops/{face_id}"
        vector, _ = await asyncio.gather(
            embed_crop(crop, self._cutting, self._inference, since),
            self._objects.put(crop_key, crop, {"directory": received.directory or ""}),
        )
        points = [(round(float(x), 2), round(float(y), 2)) for x, y in crop_landmarks]
        return EmbeddedFace(
            **face.model_dump(exclude={"face_id"}),
            face_id=face_id,
            vectors={self._generation: encoded_vector(vector)},
            crop=Crop(object_key=crop_key, landmarks=points),
            source=source_of_face(received.sha256, face.box),
        )

    async def _probe(self, data: bytes, image: DecodedImage, faces: list[Detection], since: float) -> list[EmbeddedFace]:
        large = [i for i, face in enumerate(faces) if face.side >= SMALLEST_EMBEDDED]
        landmarks = [_array(faces[i]) for i in large]
        with await self._fine_enough(data, image, landmarks) as fine:
            at = [points * fine.scale for points in landmarks]
            vectors = await embed_probes(fine.pixels, at, self._cutting, self._inference, since)
        by_face = dict(zip(large, vectors, strict=True))
        return [
            EmbeddedFace(
                **face.model_dump(),
                vectors={self._generation: encoded_vector(by_face[i])} if i in by_face else {},
            )
            for i, face in enumerate(faces)
        ]

    async def _fine_enough(self, data: bytes, image: DecodedImage, landmarks: Sequence[NDArray[np.float32]]) -> DecodedImage:
        """The image itself where it was decoded with enough pixels for a chip of each face, else one with all its pixels."""
        if image.scale == 1 or all(align.fit(points).half * 2 * image.scale >= align.CHIP for points in landmarks):
            return image
        image.release()
        return await self._decoders.decode(data, full=True)

    def _embedded(self, received: ImageReceived, faces: list[EmbeddedFace], ignored: list[Detection]) -> NewRecord:
        value = FacesEmbedded(received=received, faces=faces, ignored=ignored, models=self._models)
        return NewRecord(FACES_EMBEDDED, received.image_id, value.encode(), received.directory)


def _array(face: Detection) -> NDArray[np.float32]:
    """(5, 2), pixels of the upright original."""
    return np.array(face.landmarks, np.float32)
