"""The stage behind `images.received` that detects and embeds in turn: pixels and crops stay in memory, faces go to
`faces.embedded`.
"""

import asyncio

import numpy as np

from backends.log import NewRecord
from processors.detecting import Detecting, Image, LearnedFace, Parts, landmarks_of, large_enough
from processors.embed import embed_crop, embed_probes
from processors.embedders import Embedders
from schemas.generations import Generation
from schemas.records import Detection, EmbeddedFace, FacesEmbedded, Models, encoded_vector
from stream.topics import FACES_EMBEDDED


class Processor(Detecting):
    """Detect and embed in one."""

    def __init__(self, parts: Parts, embedders: Embedders) -> None:
        super().__init__(parts)
        self._embedders = embedders

    async def _learned(self, image: Image, face: LearnedFace, ignored: list[Detection]) -> list[NewRecord]:
        active, live = await self._embedders.active(), await self._embedders.live()
        landmarks = np.array(face.crop.landmarks, np.float32)
        vectors, _ = await asyncio.gather(
            embed_crop(face.jpeg, landmarks, live, self._cutting, self._inference, image.since),
            self._store_crop(image, face),
        )
        embedded = EmbeddedFace(
            **face.detection.model_dump(exclude={"face_id"}),
            face_id=face.face_id,
            vectors={generation: encoded_vector(vector) for generation, vector in vectors.items()},
            crop=face.crop,
            source=face.source,
        )
        return [self._embedded(image, [embedded], ignored, active)]

    async def _found(self, image: Image, faces: list[Detection]) -> list[NewRecord]:
        active = await self._embedders.active()
        large = large_enough(faces)
        landmarks = [landmarks_of(faces[i]) for i in large]
        with await self._fine_enough(image, landmarks) as fine:
            at = [points * fine.scale for points in landmarks]
            vectors = await embed_probes(fine.pixels, at, active, self._cutting, self._inference, image.since)
        by_face = dict(zip(large, vectors, strict=True))
        embedded = [
            EmbeddedFace(
                **face.model_dump(),
                vectors={active.name: encoded_vector(by_face[i])} if i in by_face else {},
            )
            for i, face in enumerate(faces)
        ]
        return [self._embedded(image, embedded, [], active)]

    def _embedded(self, image: Image, faces: list[EmbeddedFace], ignored: list[Detection], active: Generation) -> NewRecord:
        received = image.received
        models = Models(detector=self._detector_name, embedder=active.embedder, generation=active.name)
        value = FacesEmbedded(received=received, received_at=image.received_at, faces=faces, ignored=ignored, models=models)
        return NewRecord(FACES_EMBEDDED, received.image_id, value.encode(), received.directory)
