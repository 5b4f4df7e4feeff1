"""The stage of a replay: embeds the crops of `faces.learned` for another generation.

If a face was found by another detector, it is detected again in its original. The vectors go to `faces.embedded`, in
the order of the directory, so that the sink stores them after it has carried out the earlier erase commands.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter

from backends.log import CommittedOffset, NewRecord, Record, TopicPartition
from backends.objects import ObjectReader
from processors.embed import CropThreads, FaceCrop, chips_of_crop, decode_crop
from processors.inference import Inference, Picture
from processors.stages.redetect import Redetector
from schemas.errors import ObjectMissing, UnreadableRecord
from schemas.faces import encode_vector
from schemas.generation_records import Generation
from schemas.records import FaceLearned, FacesReembedded, ImageReceived, ReembeddedFace
from stream.erase.erasures import Erasures
from stream.topics import FACES_EMBEDDED

REEMBEDDED = Counter("facestream_reembedded_faces_total", "Faces that a replay has embedded", ["generation"])
GROUP = "reembed-"  # with the generation's name, the consumer group of its replay
FACES_PER_FORWARD = 64  # also the most faces in one record


class ReembedStage:
    """Stage of the consumer group of a generation's replay. `inferences` embed in parallel. `open_redetector` is called
    once, if a face needs it. `rate`: faces a second at most, 0 for no limit. `not_found` counts the faces that the
    generation's detector has not found.
    """

    def __init__(
        self,
        generation: Generation,
        objects: ObjectReader,
        crop_threads: CropThreads,
        inferences: Sequence[Inference],
        erasures: Erasures,
        open_redetector: Callable[[], Awaitable[Redetector]],
        *,
        rate: float = 0.0,
    ) -> None:
        self.name = GROUP + generation.name
        self._generation, self._objects, self._crop_threads = generation, objects, crop_threads
        self._erasures = erasures
        self._free: asyncio.Queue[Inference] = asyncio.Queue()
        for inference in inferences:
            self._free.put_nowait(inference)
        self._open_redetector = open_redetector
        self._opened_redetector: Redetector | None = None
        self._opening = asyncio.Lock()
        self._rate_limit = RateLimit(rate)
        self.not_found = 0

    async def on_assignment(self, assignment: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Does nothing: the stage keeps no state in memory."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        faces = [FaceLearned.decode(record.value) for record in records if record.value is not None]
        faces = [it for it in faces if self._generation.name not in it.generations and not self._is_erased(it)]
        begins = range(0, len(faces), FACES_PER_FORWARD)
        embedded = (self._embed(faces[begin : begin + FACES_PER_FORWARD]) for begin in begins)
        return [record for part in await asyncio.gather(*embedded) for record in part]

    def event_of(self, record: Record) -> ImageReceived:
        raise UnreadableRecord("nobody waits for an answer to a face that was learned before")

    async def check_stores(self) -> None:
        await self._objects.ping()

    async def _embed(self, faces: Sequence[FaceLearned]) -> list[NewRecord]:
        await self._rate_limit.wait(len(faces))
        found = await asyncio.gather(*(self._chip(it) for it in faces))
        with_chips = [(face, chip) for face, chip in zip(faces, found, strict=True) if chip is not None]
        if not with_chips:
            return []
        inference = await self._free.get()
        try:
            vectors = await inference.embed(self._generation.name, [chip for _, chip in with_chips])
        finally:
            self._free.put_nowait(inference)
        REEMBEDDED.labels(self._generation.name).inc(len(with_chips))
        by_directory: dict[str, list[ReembeddedFace]] = {}
        for (face, _), vector in zip(with_chips, vectors, strict=True):
            by_directory.setdefault(face.directory, []).append(_reembedded_face(face, vector))
        return [self._record(directory, of_one) for directory, of_one in by_directory.items()]

    async def _chip(self, face: FaceLearned) -> Picture | None:
        """The chip of a face for the generation's embedder; None if the face was erased meanwhile. Raises
        ObjectMissing.
        """
        if face.detector != self._generation.detector:
            if (seen := await (await self._redetector()).crop(face)) is not None:
                return await self._crop_threads.run(_chip_of, seen, self._generation.template)
            self.not_found += 1
        try:
            stored = await self._objects.get(face.crop.object_key)
        except ObjectMissing:
            await self._erasures.refresh()
            if self._is_erased(face):
                return None
            raise
        landmarks = np.array(face.crop.landmarks, np.float32)
        return await self._crop_threads.run(_chip_of_stored_crop, stored.data, landmarks, self._generation.template)

    async def _redetector(self) -> Redetector:
        async with self._opening:
            if self._opened_redetector is None:
                self._opened_redetector = await self._open_redetector()
            return self._opened_redetector

    def _is_erased(self, face: FaceLearned) -> bool:
        return self._erasures.cover_row(face.directory, face.person, face.image_id, face.learned_at)

    def _record(self, directory: str, faces: list[ReembeddedFace]) -> NewRecord:
        value = FacesReembedded(directory=directory, generation=self._generation.name, faces=faces)
        return NewRecord(FACES_EMBEDDED, faces[0].image_id, value.encode(), directory)


class RateLimit:
    """Lets at most `rate` faces per second pass, in turn; 0 means no limit."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = time.monotonic()

    async def wait(self, count: int) -> None:
        if self._rate:
            self._free_at = max(self._free_at, time.monotonic()) + count / self._rate
            await asyncio.sleep(self._free_at - time.monotonic())


def _chip_of_stored_crop(jpeg: bytes, landmarks: NDArray[np.float32], template: str) -> Picture:
    return _chip_of(FaceCrop(decode_crop(jpeg), landmarks), template)


def _chip_of(crop: FaceCrop, template: str) -> Picture:
    return chips_of_crop(crop, [template])[template]


def _reembedded_face(face: FaceLearned, vector: NDArray[np.float32]) -> ReembeddedFace:
    return ReembeddedFace(
        person=face.person,
        face_id=face.face_id,
        image_id=face.image_id,
        source=face.source,
        learned_at=face.learned_at,
        vector=encode_vector(vector),
    )
