"""The stage behind `images.received` that both detects and embeds: pixels and crops stay in memory, faces go to
`faces.embedded`.
"""

import asyncio

import numpy as np

from backends.log import NewRecord
from processors.embed import FaceCrop, decode_crop, embed_crops, embed_probes, jpeg_round_trip
from processors.embedders import Embedders
from processors.stages.base import (
    FaceToLearn,
    ImageInProgress,
    ImageStage,
    StageResources,
    find_large_enough,
    landmarks_of,
    models_of,
)
from schemas.arrays import Float32Array
from schemas.faces import Detection, EmbeddedFace, encode_vector
from schemas.records import FacesEmbedded
from stream.topics import FACES_EMBEDDED


class FusedStage(ImageStage):
    """Stage of the consumer group `processors` that ends with the vectors."""

    def __init__(self, resources: StageResources, embedders: Embedders) -> None:
        super().__init__(resources)
        self._embedders = embedders

    async def _learn(self, image: ImageInProgress, face: FaceToLearn, ignored: list[Detection]) -> list[NewRecord]:
        vectors, _ = await asyncio.gather(self._embed(image, face), self._store_crop(image, face))
        embedded = EmbeddedFace(
            **face.detection.model_dump(exclude={"face_id"}),
            face_id=face.face_id,
            vectors={generation: encode_vector(vector) for generation, vector in vectors.items()},
            crop=face.crop,
            source=face.source,
        )
        return [self._embedded_record(image, [embedded], ignored)]

    async def _embed(self, image: ImageInProgress, face: FaceToLearn) -> dict[str, Float32Array]:
        """The vectors by generation. For a generation with another detector, the face is cut as that detector finds it,
        and also encoded as a JPEG and decoded.
        """
        kept = await self._crop_threads.run(decode_crop, face.jpeg)
        crops = {image.generation.detector: FaceCrop(kept, np.array(face.crop.landmarks, np.float32))}
        for detector, cut in face.other_crops.items():
            crops[detector] = await self._crop_threads.run(jpeg_round_trip, cut)
        return await embed_crops(
            crops,
            image.generation.detector,
            await self._embedders.live(),
            self._crop_threads,
            self._inference,
            image.since,
        )

    async def _recognize(self, image: ImageInProgress, faces: list[Detection]) -> list[NewRecord]:
        generation = await self._embedders.require(image.generation.name)
        large = find_large_enough(faces)
        landmarks = [landmarks_of(faces[i]) for i in large]
        with await self._cutter.ensure_enough_pixels(image.data, image.decoded, landmarks) as fine:
            fine_landmarks = [points * fine.scale for points in landmarks]
            vectors = await embed_probes(
                fine.pixels, fine_landmarks, generation, self._crop_threads, self._inference, image.since
            )
        by_face = dict(zip(large, vectors, strict=True))
        embedded = [
            EmbeddedFace(
                **face.model_dump(),
                vectors={generation.name: encode_vector(by_face[i])} if i in by_face else {},
            )
            for i, face in enumerate(faces)
        ]
        return [self._embedded_record(image, embedded, [])]

    def _embedded_record(
        self, image: ImageInProgress, faces: list[EmbeddedFace], ignored: list[Detection]
    ) -> NewRecord:
        received = image.received
        value = FacesEmbedded(
            received=received,
            received_at=image.received_at,
            faces=faces,
            ignored=ignored,
            models=models_of(image.generation),
        )
        return NewRecord(FACES_EMBEDDED, received.image_id, value.encode(), received.directory)
