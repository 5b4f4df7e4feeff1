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
from processors.embed import AT_ONCE, Cutting, chips_of_crop, embed_crop
from processors.embedders import Embedders
from processors.inference import PICTURE_S, Inference, Picture
from processors.sheet import decoded_sheet, encoded_sheet
from schemas.errors import UnreadableRecord
from schemas.generations import Generation
from schemas.ids import sheet_key
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
from stream.erasures import Erasures, drop_if_erased
from stream.topics import FACES_DETECTED, FACES_EMBEDDED

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Detect(Detecting):
    """Stage of the consumer group `processors` that ends with the crops."""

    async def _learned(self, image: Image, face: LearnedFace, ignored: list[Detection]) -> list[NewRecord]:
        await self._store_crop(image, face)
        detected = DetectedFace(
            **face.detection.model_dump(exclude={"face_id"}), face_id=face.face_id, crop=face.crop, source=face.source
        )
        return [self._detected(image, [detected], ignored, None)]

    async def _found(self, image: Image, faces: list[Detection]) -> list[NewRecord]:
        large = large_enough(faces)
        key = sheet_key(image.received.image_id) if large else None
        if key is not None:
            landmarks = [landmarks_of(faces[i]) for i in large]
            with await self._fine_enough(image, landmarks) as fine:
                at = [points * fine.scale for points in landmarks]
                sheet = await self._cutting.run(_sheet_of, fine.pixels, at)
            metadata = {"directory": image.received.directory or "", "received": str(image.received_at / 1000)}
            await self._objects.put(key, sheet, metadata)
            await self._erased_meanwhile(image.received, image.received_at)
        cells = {i: cell for cell, i in enumerate(large)}
        detected = [DetectedFace(**face.model_dump(), cell=cells.get(i)) for i, face in enumerate(faces)]
        return [self._detected(image, detected, [], key)]

    def _detected(self, image: Image, faces: list[DetectedFace], ignored: list[Detection], key: str | None) -> NewRecord:
        value = FacesDetected(
            received=image.received,
            received_at=image.received_at,
            faces=faces,
            ignored=ignored,
            detector=self._detector_name,
            sheet_key=key,
        )
        return NewRecord(FACES_DETECTED, image.received.image_id, value.encode())


def _sheet_of(pixels: Pixels, landmarks: Sequence[Floats]) -> bytes:
    return encoded_sheet([align.crop(pixels, points) for points in landmarks])


class Embed:
    """Stage of the consumer group `embedders`: from crops to vectors."""

    name = "embedders"

    def __init__(
        self, objects: ObjectStore, cutting: Cutting, inference: Inference, embedders: Embedders, erasures: Erasures
    ) -> None:
        self._objects, self._cutting, self._inference = objects, cutting, inference
        self._embedders, self._erasures = embedders, erasures

    async def assigned(self, assignment: Mapping[TopicPartition, Committed]) -> None:
        """Nothing is held in memory."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        return list(await asyncio.gather(*(self._one(record) for record in records)))

    def received(self, record: Record) -> ImageReceived:
        event = FacesDetected.decode(record.value)
        return event.received.model_copy(update={"received_at": event.received_at})

    async def probe(self) -> None:
        await self._objects.ping()

    async def _one(self, record: Record) -> NewRecord:
        event = FacesDetected.decode(record.value)
        received, since = event.received, time.monotonic()
        await drop_if_erased(received, event.received_at, self._erasures, self._objects)
        active = await self._embedders.active()
        of_face = await (self._of_crop(event, since) if received.purpose == "learn" else self._of_sheet(event, active, since))
        faces = [
            EmbeddedFace(
                **face.model_dump(exclude={"cell"}),
                vectors={generation: encoded_vector(vector) for generation, vector in of_face.get(i, {}).items()},
            )
            for i, face in enumerate(event.faces)
        ]
        models = Models(detector=event.detector, embedder=active.embedder, generation=active.name)
        value = FacesEmbedded(received=received, received_at=event.received_at, faces=faces, ignored=event.ignored, models=models)
        return NewRecord(FACES_EMBEDDED, received.image_id, value.encode(), received.directory)

    async def _of_crop(self, event: FacesDetected, since: float) -> dict[int, dict[str, Floats]]:
        """By face, then by generation."""
        if len(event.faces) != 1 or event.faces[0].crop is None:
            raise UnreadableRecord("a learn carries one face with its crop")
        crop = event.faces[0].crop
        stored = await self._objects.get(crop.object_key)
        landmarks = np.array(crop.landmarks, np.float32)
        live = await self._embedders.live()
        return {0: await embed_crop(stored.data, landmarks, live, self._cutting, self._inference, since)}

    async def _of_sheet(self, event: FacesDetected, active: Generation, since: float) -> dict[int, dict[str, Floats]]:
        at = [i for i, face in enumerate(event.faces) if face.cell is not None]
        if not at or event.sheet_key is None:
            return {}
        stored = await self._objects.get(event.sheet_key)
        landmarks = [landmarks_of(event.faces[i]) for i in at]
        chips = await self._cutting.run(_chips_of, stored.data, landmarks, active.template)
        vectors: list[Floats] = []
        for begin in range(0, len(chips), AT_ONCE):
            part = chips[begin : begin + AT_ONCE]
            vectors += list(await self._inference.embed(active.name, part, since + begin * PICTURE_S))
        return {i: {active.name: vector} for i, vector in zip(at, vectors, strict=True)}


def _chips_of(sheet: bytes, landmarks: Sequence[Floats], template: str) -> list[Picture]:
    """landmarks: (5, 2) each, in pixels of the photo."""
    crops = decoded_sheet(sheet, len(landmarks))
    in_crop = [align.crop_landmarks(points, align.fit(points)) for points in landmarks]
    return [chips_of_crop(crop, points, [template])[template] for crop, points in zip(crops, in_crop, strict=True)]
