"""Cuts learned faces out of their originals again, where another detector finds them."""

import asyncio
import time

from backends.objects import ObjectReader
from processors.decoding.pool import DecodePool
from processors.embed import CropThreads, FaceCrop, jpeg_round_trip
from processors.face_cutter import FaceCutter
from processors.inference import Inference
from schemas.errors import ObjectMissing
from schemas.ids import original_key
from schemas.records import FaceLearned


class Redetector:
    """Cuts faces with one detector. `detector`: the name of a detector that the inference has."""

    def __init__(
        self,
        detector: str,
        objects: ObjectReader,
        decoders: DecodePool,
        crop_threads: CropThreads,
        inference: Inference,
    ) -> None:
        self._detector, self._objects, self._decoders, self._crop_threads = detector, objects, decoders, crop_threads
        self._cutter = FaceCutter(decoders, crop_threads, inference)
        self._in_memory = asyncio.Semaphore(2 * decoders.workers)  # originals: one is fetched while another is decoded

    async def crop(self, face: FaceLearned) -> FaceCrop | None:
        """The crop of a face where the detector finds it in the original; None if it finds none, or if the original no
        longer exists.
        """
        if face.box is None:
            return None
        async with self._in_memory:
            try:
                original = (await self._objects.get(original_key(face.image_id, "learn"))).data
            except ObjectMissing:
                return None
            with await self._decoders.decode(original) as decoded:
                landmarks = await self._cutter.find_landmarks(self._detector, decoded, face.box, time.monotonic())
                if landmarks is None:
                    return None
                (cut,) = await self._cutter.cut(original, decoded, [landmarks])
        return await self._crop_threads.run(jpeg_round_trip, cut)
