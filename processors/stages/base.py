"""The base of the stages behind `images.received`: decodes an image once, finds its faces, chooses the one to learn and
cuts its crop.

Images that need no gallery are answered at once: those for which only detection was requested, and photos without a
face.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from prometheus_client import Counter

from backends.log import CommittedOffset, NewRecord, Record, TopicPartition
from backends.objects import ObjectReader, StoredObject
from processors.decoding.pool import DecodedImage, DecodePool
from processors.detect import choose_face, detection_records, find_faces
from processors.detectors import Detectors
from processors.embed import CropThreads, FaceCrop, encode_crop
from processors.face_cutter import FaceCutter
from processors.inference import Inference
from schemas.answers import Models
from schemas.arrays import Float32Array
from schemas.cloudevents import decode_image_received
from schemas.errors import ObjectMissing
from schemas.faces import Crop, Detection
from schemas.generation_records import Generation
from schemas.ids import crop_key, learned_face_id, source_of_face
from schemas.records import ImageReceived
from stream.answers import answer_record, detected_body, recognized_body
from stream.erase.erasures import position_of
from stream.erase.guarded_store import GuardedStore
from stream.sources import SourceCopier
from stream.topics import IMAGES_RECEIVED_BULK
from weights.manifest import manifest

FACES = Counter("facestream_faces_total", "Faces that were found", ["purpose"])
SMALLEST_EMBEDDED = 20  # pixels a side: in smaller faces, the eyes are a few pixels apart and strangers look alike
BULK_STEPS_BACK_S = 10.0  # the networks treat an image of the bulk lane as if it had arrived this much later


@dataclass(frozen=True, slots=True)
class ImageInProgress:
    """A decoded image that is being processed. received_at: when it was received, ms. since: when its processing began,
    see Inference.detect. generation: the generation of the answer, whose detector finds the faces.
    """

    received: ImageReceived
    received_at: int
    data: bytes
    decoded: DecodedImage
    since: float
    generation: Generation


@dataclass(frozen=True, slots=True)
class FaceToLearn:
    """A face to learn. `crop` is the part of the record, `jpeg` the stored picture. `other_crops` are its crops where
    other detectors find it, by their names.
    """

    detection: Detection
    face_id: str
    source: str
    crop: Crop
    jpeg: bytes
    other_crops: Mapping[str, FaceCrop]


@dataclass(frozen=True, slots=True)
class StageResources:
    """The resources of the stages behind `images.received`."""

    objects: ObjectReader
    store: GuardedStore
    decoders: DecodePool
    crop_threads: CropThreads
    inference: Inference
    detectors: Detectors
    sources: SourceCopier


class ImageStage(ABC):
    """Base of the stages of the consumer group `processors`. Subclasses decide what is done with the faces."""

    name = "processors"

    def __init__(self, resources: StageResources) -> None:
        self._objects, self._store, self._sources = resources.objects, resources.store, resources.sources
        self._decoders, self._crop_threads = resources.decoders, resources.crop_threads
        self._inference, self._detectors = resources.inference, resources.detectors
        self._cutter = FaceCutter(resources.decoders, resources.crop_threads, resources.inference)
        # one decoder stays free for the interactive lane
        self._bulk_decoders = asyncio.Semaphore(max(1, resources.decoders.workers - 1))

    async def on_assignment(  # noqa: B027 - not abstract: it does what it says
        self, assignment: Mapping[TopicPartition, CommittedOffset]
    ) -> None:
        """Does nothing: the stage keeps no state in memory."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        outputs = await asyncio.gather(*(self._handle_record(record) for record in records))
        return [record for of_one in outputs for record in of_one]

    def event_of(self, record: Record) -> ImageReceived:
        return decode_image_received(record.value, record.headers).with_origin(position_of(record))

    async def check_stores(self) -> None:
        await self._objects.ping()

    @abstractmethod
    async def _learn(self, image: ImageInProgress, face: FaceToLearn, ignored: list[Detection]) -> list[NewRecord]:
        """The records to append for a face to learn. Its crop is not stored yet."""

    @abstractmethod
    async def _recognize(self, image: ImageInProgress, faces: list[Detection]) -> list[NewRecord]:
        """The records to append for the faces of a photo, at least one."""

    async def _handle_record(self, record: Record) -> list[NewRecord]:
        received = self.event_of(record)
        received_at = received.first_received_at(record.timestamp)
        bulk = record.topic == IMAGES_RECEIVED_BULK
        since = time.monotonic() + (BULK_STEPS_BACK_S if bulk else 0)
        received, stored = await self._read_original(received, received_at)
        async with self._bulk_decoders if bulk else nullcontext():
            decoding = await self._decoders.decode(stored.data, detail=received.options.detail)
        with decoding as decoded:
            active = await self._detectors.active()
            detector = manifest().detector(active.detector)
            image = ImageInProgress(received, received_at, stored.data, decoded, since, active)
            found = detection_records(
                await find_faces(decoded, active.detector, self._inference, since), received, decoded, detector
            )
            FACES.labels(received.purpose).inc(len(found))
            if received.purpose == "detect":
                return [answer_record(received, 200, detected_body(received, found, active.detector))]
            if received.purpose == "learn":
                face, ignored = choose_face(found, received.options, detector)
                return await self._learn(image, await self._crop_face(image, face), ignored)
            if not found:
                return [answer_record(received, 200, recognized_body(received, [], models_of(active)))]
            return await self._recognize(image, found)

    async def _read_original(self, received: ImageReceived, received_at: int) -> tuple[ImageReceived, StoredObject]:
        """The completed event and its picture. Raises Erased, and what Sources.original raises."""
        await self._store.drop_if_erased(received)
        try:
            return await self._sources.read_original(received, received_at)
        except ObjectMissing:
            await self._store.drop_if_deleted(received)
            raise

    async def _crop_face(self, image: ImageInProgress, face: Detection) -> FaceToLearn:
        landmarks = {image.generation.detector: landmarks_of(face)}
        for other in await self._detectors.other_detectors(image.generation.detector):
            seen = await self._cutter.find_landmarks(other, image.decoded, face.box, image.since)
            if seen is not None:
                landmarks[other] = seen
        cuts = dict(
            zip(landmarks, await self._cutter.cut(image.data, image.decoded, list(landmarks.values())), strict=True)
        )
        cut = cuts.pop(image.generation.detector)
        jpeg = await self._crop_threads.run(encode_crop, cut.pixels)
        face_id = learned_face_id(image.received.image_id)
        rounded = [(round(float(x), 2), round(float(y), 2)) for x, y in cut.landmarks]
        source = source_of_face(image.received.sha256, face.box)
        crop = Crop(object_key=crop_key(face_id), landmarks=rounded)
        return FaceToLearn(face, face_id, source, crop, jpeg, cuts)

    async def _store_crop(self, image: ImageInProgress, face: FaceToLearn) -> None:
        received = image.received
        metadata = self._store.metadata(received, image.received_at, image_id=received.image_id)
        await self._store.put(received, face.crop.object_key, face.jpeg, metadata)


def models_of(generation: Generation) -> Models:
    return Models(detector=generation.detector, embedder=generation.embedder, generation=generation.name)


def landmarks_of(face: Detection) -> Float32Array:
    """(5, 2), pixels of the upright original."""
    return np.array(face.landmarks, np.float32)


def find_large_enough(faces: Sequence[Detection]) -> list[int]:
    """The indices of the faces that are large enough to tell people apart."""
    return [i for i, face in enumerate(faces) if face.side >= SMALLEST_EMBEDDED]
