"""The stage behind `images.received` that detects and embeds in turn: pixels and crops stay in memory, faces go to
`faces.embedded`.
"""

import asyncio

import numpy as np

from backends.log import NewRecord
from processors.embed import CutFace, as_kept, decoded_crop, embed_crops, embed_probes
from processors.embedders import Embedders
from processors.stages.base import Image, ImageStage, LearnedFace, Parts, landmarks_of, large_enough, models_of
from schemas.arrays import Float32Array
from schemas.faces import Detection, EmbeddedFace, encoded_vector
from schemas.records import FacesEmbedded
from stream.topics import FACES_EMBEDDED


class FusedStage(ImageStage):
    """Detect and embed in one."""

    def __init__(self, parts: Parts, embedders: Embedders) -> None:
        super().__init__(parts)
        self._embedders = embedders

    async def _learned(self, image: Image, face: LearnedFace, ignored: list[Detection]) -> list[NewRecord]:
        vectors, _ = await asyncio.gather(self._vectors(image, face), self._store_crop(image, face))
        embedded = EmbeddedFace(
            **face.detection.model_dump(exclude={"face_id"}),
            face_id=face.face_id,
            vectors={generation: encoded_vector(vector) for generation, vector in vectors.items()},
            crop=face.crop,
            source=face.source,
        )
        return [self._embedded(image, [embedded], ignored)]

    async def _vectors(self, image: Image, face: LearnedFace) -> dict[str, Float32Array]:
        """By generation. Who is seen by another detector is embedded as that one sees them, out of a JPEG too."""
        kept = await self._crop_threads.run(decoded_crop, face.jpeg)
        crops = {image.generation.detector: CutFace(kept, np.array(face.crop.landmarks, np.float32))}
        for detector, cut in face.seen.items():
            crops[detector] = await self._crop_threads.run(as_kept, cut)
        return await embed_crops(
            crops,
            image.generation.detector,
            await self._embedders.live(),
            self._crop_threads,
            self._inference,
            image.since,
        )

    async def _found(self, image: Image, faces: list[Detection]) -> list[NewRecord]:
        generation = await self._embedders.require(image.generation.name)
        large = large_enough(faces)
        landmarks = [landmarks_of(faces[i]) for i in large]
        with await self._cutter.fine_enough(image.data, image.decoded, landmarks) as fine:
            at = [points * fine.scale for points in landmarks]
            vectors = await embed_probes(fine.pixels, at, generation, self._crop_threads, self._inference, image.since)
        by_face = dict(zip(large, vectors, strict=True))
        embedded = [
            EmbeddedFace(
                **face.model_dump(),
                vectors={generation.name: encoded_vector(by_face[i])} if i in by_face else {},
            )
            for i, face in enumerate(faces)
        ]
        return [self._embedded(image, embedded, [])]

    def _embedded(self, image: Image, faces: list[EmbeddedFace], ignored: list[Detection]) -> NewRecord:
        received = image.received
        value = FacesEmbedded(
            received=received,
            received_at=image.received_at,
            faces=faces,
            ignored=ignored,
            models=models_of(image.generation),
        )
        return NewRecord(FACES_EMBEDDED, received.image_id, value.encode(), received.directory)
