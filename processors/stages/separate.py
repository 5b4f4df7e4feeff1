"""Detect and embed as two stages with `faces.detected` between them, for installations in which they run on different
hardware.

Crops pass through the object store. The crop of a learned face is stored there anyway. The crops of a photo are stored
as one sheet, next to the photo, and deleted with it.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from backends.log import CommittedOffset, NewRecord, Record, TopicPartition
from backends.objects import ObjectReader
from processors import align
from processors.embed import CHIPS_PER_STEP, CropThreads, FaceCrop, chips_of_crop, decode_crop, embed_crops
from processors.embedders import Embedders
from processors.inference import PICTURE_DONE_S, Inference, Picture
from processors.sheet import decode_sheet, encode_sheet
from processors.stages.base import FaceToLearn, ImageInProgress, ImageStage, find_large_enough, landmarks_of, models_of
from schemas.arrays import Float32Array
from schemas.errors import UnreadableRecord
from schemas.faces import DetectedFace, Detection, EmbeddedFace, encode_vector
from schemas.ids import sheet_key
from schemas.records import FacesDetected, FacesEmbedded, ImageReceived
from stream.erase.guarded_store import GuardedStore
from stream.topics import FACES_DETECTED, FACES_EMBEDDED

Pixels = NDArray[np.uint8]


class DetectStage(ImageStage):
    """Stage of the consumer group `processors` that ends with the crops."""

    async def _learn(self, image: ImageInProgress, face: FaceToLearn, ignored: list[Detection]) -> list[NewRecord]:
        await self._store_crop(image, face)
        key = None
        if face.other_crops:
            key = await self._store_sheet(image, [cut.pixels for cut in face.other_crops.values()])
        detected = DetectedFace(
            **face.detection.model_dump(exclude={"face_id"}),
            face_id=face.face_id,
            crop=face.crop,
            source=face.source,
            seen={
                detector: [(float(x), float(y)) for x, y in cut.landmarks] for detector, cut in face.other_crops.items()
            },
        )
        return [self._detected_record(image, [detected], ignored, key)]

    async def _recognize(self, image: ImageInProgress, faces: list[Detection]) -> list[NewRecord]:
        large = find_large_enough(faces)
        key = None
        if large:
            cut = await self._cutter.cut(image.data, image.decoded, [landmarks_of(faces[i]) for i in large])
            key = await self._store_sheet(image, [it.pixels for it in cut])
        cells = {i: cell for cell, i in enumerate(large)}
        detected = [DetectedFace(**face.model_dump(), cell=cells.get(i)) for i, face in enumerate(faces)]
        return [self._detected_record(image, detected, [], key)]

    async def _store_sheet(self, image: ImageInProgress, crops: Sequence[Pixels]) -> str:
        received = image.received
        key = sheet_key(received.image_id)
        sheet = await self._crop_threads.run(encode_sheet, crops)
        await self._store.put(received, key, sheet, self._store.metadata(received, image.received_at))
        return key

    def _detected_record(
        self, image: ImageInProgress, faces: list[DetectedFace], ignored: list[Detection], key: str | None
    ) -> NewRecord:
        value = FacesDetected(
            received=image.received,
            received_at=image.received_at,
            faces=faces,
            ignored=ignored,
            models=models_of(image.generation),
            sheet_key=key,
        )
        return NewRecord(FACES_DETECTED, image.received.image_id, value.encode())


class EmbedStage:
    """Stage of the consumer group `embedders`: from crops to vectors."""

    name = "embedders"

    def __init__(
        self,
        objects: ObjectReader,
        store: GuardedStore,
        crop_threads: CropThreads,
        inference: Inference,
        embedders: Embedders,
    ) -> None:
        self._objects, self._store = objects, store
        self._crop_threads, self._inference, self._embedders = crop_threads, inference, embedders

    async def on_assignment(self, assignment: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Does nothing: the stage keeps no state in memory."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        return list(await asyncio.gather(*(self._handle_record(record) for record in records)))

    def event_of(self, record: Record) -> ImageReceived:
        event = FacesDetected.decode(record.value)
        return event.received.model_copy(update={"received_at": event.received_at})

    async def check_stores(self) -> None:
        await self._objects.ping()

    async def _handle_record(self, record: Record) -> NewRecord:
        event = FacesDetected.decode(record.value)
        received, since = event.received, time.monotonic()
        await self._store.drop_if_erased(received)
        of_face = await (
            self._embed_crops(event, since) if received.purpose == "learn" else self._embed_sheet(event, since)
        )
        faces = [
            EmbeddedFace(
                **face.model_dump(exclude={"cell", "seen"}),
                vectors={generation: encode_vector(vector) for generation, vector in of_face.get(i, {}).items()},
            )
            for i, face in enumerate(event.faces)
        ]
        value = FacesEmbedded(
            received=received, received_at=event.received_at, faces=faces, ignored=event.ignored, models=event.models
        )
        return NewRecord(FACES_EMBEDDED, received.image_id, value.encode(), received.directory)

    async def _embed_crops(self, event: FacesDetected, since: float) -> dict[int, dict[str, Float32Array]]:
        """The vectors of a learned face, by its index and by generation."""
        if len(event.faces) != 1 or event.faces[0].crop is None:
            raise UnreadableRecord("a learn carries one face with its crop")
        face, kept, detector = event.faces[0], event.faces[0].crop, event.models.detector
        stored = await self._objects.get(kept.object_key)
        crops = {
            detector: FaceCrop(
                await self._crop_threads.run(decode_crop, stored.data), np.array(kept.landmarks, np.float32)
            )
        }
        if face.seen and event.sheet_key is not None:
            sheet = await self._objects.get(event.sheet_key)
            for detector_name, pixels in zip(
                face.seen, await self._crop_threads.run(decode_sheet, sheet.data, len(face.seen)), strict=True
            ):
                crops[detector_name] = FaceCrop(pixels, np.array(face.seen[detector_name], np.float32))
        live = await self._embedders.live()
        return {0: await embed_crops(crops, detector, live, self._crop_threads, self._inference, since)}

    async def _embed_sheet(self, event: FacesDetected, since: float) -> dict[int, dict[str, Float32Array]]:
        """The vectors of a photo's faces that have a crop, by their indices and by generation."""
        generation = await self._embedders.require(event.models.generation or "")
        indices = [i for i, face in enumerate(event.faces) if face.cell is not None]
        if not indices or event.sheet_key is None:
            return {}
        stored = await self._objects.get(event.sheet_key)
        landmarks = [landmarks_of(event.faces[i]) for i in indices]
        chips = await self._crop_threads.run(_chips_of_sheet, stored.data, landmarks, generation.template)
        vectors: list[Float32Array] = []
        for begin in range(0, len(chips), CHIPS_PER_STEP):
            part = chips[begin : begin + CHIPS_PER_STEP]
            vectors += list(await self._inference.embed(generation.name, part, since + begin * PICTURE_DONE_S))
        return {i: {generation.name: vector} for i, vector in zip(indices, vectors, strict=True)}


def _chips_of_sheet(sheet: bytes, landmarks: Sequence[Float32Array], template: str) -> list[Picture]:
    """landmarks: (5, 2) each, in pixels of the photo."""
    crops = decode_sheet(sheet, len(landmarks))
    in_crop = [align.landmarks_in_crop(points, align.fit_landmarks(points)) for points in landmarks]
    cut = [FaceCrop(crop, points) for crop, points in zip(crops, in_crop, strict=True)]
    return [chips_of_crop(it, [template])[template] for it in cut]
