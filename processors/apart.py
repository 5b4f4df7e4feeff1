"""Detect and embed as two stages with `faces.detected` between them, for where each needs hardware of its own.

Crops go through the object store: a learned face's is kept there anyway, those of a photo travel as one sheet that lies beside
the photo, and goes with it.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from backends.log import Committed, NewRecord, Record, TopicPartition
from backends.objects import ObjectStore
from processors import align
from processors.detecting import Detecting, Image, LearnedFace, landmarks_of, large_enough
from processors.embed import AT_ONCE, Cutting, embed_crop
from processors.inference import PICTURE_S, Inference
from processors.sheet import decoded_sheet, encoded_sheet
from schemas.errors import UnreadableRecord
from schemas.records import (
    DetectedFace,
    Detection,
    EmbeddedFace,
    FacesDetected,
    FacesEmbedded,
    ImageReceived,
    Models,
    encoded_vector,
)
from stream.answers import sheet_key
from stream.topics import FACES_DETECTED, FACES_EMBEDDED
from weights.manifest import Manifest

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Detect(Detecting):
    """Stage of the consumer group `processors` that ends with the crops."""

    async def _learned(self, image: Image, face: LearnedFace, ignored: list[Detection]) -> list[NewRecord]:
        await self._store_crop(image.received, face)
        detected = DetectedFace(
            **face.detection.model_dump(exclude={"face_id"}), face_id=face.face_id, crop=face.crop, source=face.source
        )
        return [self._detected(image.received, [detected], ignored, None)]

    async def _found(self, image: Image, faces: list[Detection]) -> list[NewRecord]:
        large = large_enough(faces)
        key = sheet_key(image.received) if large else None
        if key is not None:
            landmarks = [landmarks_of(faces[i]) for i in large]
            with await self._fine_enough(image, landmarks) as fine:
                at = [points * fine.scale for points in landmarks]
                sheet = await self._cutting.run(_sheet_of, fine.pixels, at)
            await self._objects.put(key, sheet, {"directory": image.received.directory or ""})
        cells = {i: cell for cell, i in enumerate(large)}
        detected = [DetectedFace(**face.model_dump(), cell=cells.get(i)) for i, face in enumerate(faces)]
        return [self._detected(image.received, detected, [], key)]

    def _detected(
        self, received: ImageReceived, faces: list[DetectedFace], ignored: list[Detection], key: str | None
    ) -> NewRecord:
        value = FacesDetected(received=received, faces=faces, ignored=ignored, detector=self._models.detector, sheet_key=key)
        return NewRecord(FACES_DETECTED, received.image_id, value.encode())


def _sheet_of(pixels: Pixels, landmarks: Sequence[Floats]) -> bytes:
    return encoded_sheet([align.crop(pixels, points) for points in landmarks])


class Embed:
    """Stage of the consumer group `embedders`: from crops to vectors."""

    name = "embedders"

    def __init__(self, objects: ObjectStore, cutting: Cutting, inference: Inference, manifest: Manifest) -> None:
        self._objects, self._cutting, self._inference = objects, cutting, inference
        self._generation = manifest.default_generation
        self._embedder = manifest.generation(self._generation).embedder

    async def assigned(self, assignment: Mapping[TopicPartition, Committed]) -> None:
        """Nothing is held in memory."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        return list(await asyncio.gather(*(self._one(record) for record in records)))

    def received(self, record: Record) -> ImageReceived:
        return FacesDetected.decode(record.value).received

    async def probe(self) -> None:
        await self._objects.ping()

    async def _one(self, record: Record) -> NewRecord:
        event = FacesDetected.decode(record.value)
        received, since = event.received, time.monotonic()
        vectors = await (self._of_crop(event, since) if received.purpose == "learn" else self._of_sheet(event, since))
        faces = [
            EmbeddedFace(
                **face.model_dump(exclude={"cell"}),
                vectors={self._generation: encoded_vector(vectors[i])} if i in vectors else {},
            )
            for i, face in enumerate(event.faces)
        ]
        models = Models(detector=event.detector, embedder=self._embedder, generation=self._generation)
        value = FacesEmbedded(received=received, faces=faces, ignored=event.ignored, models=models)
        return NewRecord(FACES_EMBEDDED, received.image_id, value.encode(), received.directory)

    async def _of_crop(self, event: FacesDetected, since: float) -> dict[int, Floats]:
        if len(event.faces) != 1 or event.faces[0].crop is None:
            raise UnreadableRecord("a learn carries one face with its crop")
        stored = await self._objects.get(event.faces[0].crop.object_key)
        return {0: await embed_crop(stored.data, self._cutting, self._inference, since)}

    async def _of_sheet(self, event: FacesDetected, since: float) -> dict[int, Floats]:
        at = [i for i, face in enumerate(event.faces) if face.cell is not None]
        if not at or event.sheet_key is None:
            return {}
        stored = await self._objects.get(event.sheet_key)
        chips = await self._cutting.run(_chips_of, stored.data, len(at))
        vectors: list[Floats] = []
        for begin in range(0, len(chips), AT_ONCE):
            vectors += list(await self._inference.embed(chips[begin : begin + AT_ONCE], since + begin * PICTURE_S))
        return dict(zip(at, vectors, strict=True))


def _chips_of(sheet: bytes, cells: int) -> list[Pixels]:
    return [align.chip_of_crop(crop) for crop in decoded_sheet(sheet, cells)]
