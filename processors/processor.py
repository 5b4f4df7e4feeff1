"""The stage behind `images.received` that detects and embeds in turn: pixels and crops stay in memory, faces go to
`faces.embedded`.
"""

import asyncio

from backends.log import NewRecord
from processors.detecting import Detecting, Image, LearnedFace, landmarks_of, large_enough
from processors.embed import embed_crop, embed_probes
from schemas.records import Detection, EmbeddedFace, FacesEmbedded, encoded_vector
from stream.topics import FACES_EMBEDDED


class Processor(Detecting):
    """Detect and embed in one."""

    async def _learned(self, image: Image, face: LearnedFace, ignored: list[Detection]) -> list[NewRecord]:
        vector, _ = await asyncio.gather(
            embed_crop(face.jpeg, self._cutting, self._inference, image.since), self._store_crop(image.received, face)
        )
        embedded = EmbeddedFace(
            **face.detection.model_dump(exclude={"face_id"}),
            face_id=face.face_id,
            vectors={self._generation: encoded_vector(vector)},
            crop=face.crop,
            source=face.source,
        )
        return [self._embedded(image, [embedded], ignored)]

    async def _found(self, image: Image, faces: list[Detection]) -> list[NewRecord]:
        large = large_enough(faces)
        landmarks = [landmarks_of(faces[i]) for i in large]
        with await self._fine_enough(image, landmarks) as fine:
            at = [points * fine.scale for points in landmarks]
            vectors = await embed_probes(fine.pixels, at, self._cutting, self._inference, image.since)
        by_face = dict(zip(large, vectors, strict=True))
        embedded = [
            EmbeddedFace(
                **face.model_dump(),
                vectors={self._generation: encoded_vector(by_face[i])} if i in by_face else {},
            )
            for i, face in enumerate(faces)
        ]
        return [self._embedded(image, embedded, [])]

    def _embedded(self, image: Image, faces: list[EmbeddedFace], ignored: list[Detection]) -> NewRecord:
        received = image.received
        value = FacesEmbedded(received=received, faces=faces, ignored=ignored, models=self._models)
        return NewRecord(FACES_EMBEDDED, received.image_id, value.encode(), received.directory)
