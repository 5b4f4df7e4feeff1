"""The crop of a learned face: by the detector that has found it, and as another detector sees the same face."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from processors import align
from processors.boxes import closest
from processors.decoding.pool import DecodedImage, DecodePool
from processors.detect import find_faces
from processors.embed import CropThreads, CutFace, cut_face
from processors.inference import Inference
from schemas.arrays import Float32Array


class FaceCutter:
    """Cuts faces out of decoded images, from all their pixels where a face needs them."""

    def __init__(self, decoders: DecodePool, crop_threads: CropThreads, inference: Inference) -> None:
        self._decoders, self._crop_threads, self._inference = decoders, crop_threads, inference

    async def cut(self, data: bytes, decoded: DecodedImage, landmarks: Sequence[Float32Array]) -> list[CutFace]:
        """data: the file of `decoded`, which is released. landmarks: (5, 2) each, pixels of the upright original."""
        with await self.fine_enough(data, decoded, landmarks) as fine:
            return await self._crop_threads.run(_cut, fine.pixels, [points * fine.scale for points in landmarks])

    async def seen_by(
        self, detector: str, decoded: DecodedImage, box: Sequence[int], since: float
    ) -> Float32Array | None:
        """The landmarks, (5, 2), of the face at `box` as another detector finds it; None where it does not. Pixels of
        the upright original. since: as in Inference.detect.
        """
        found = await find_faces(decoded, detector, self._inference, since)
        at = closest(found, box)
        return None if at is None else found.landmarks[at]

    async def fine_enough(self, data: bytes, decoded: DecodedImage, landmarks: Sequence[Float32Array]) -> DecodedImage:
        """The image itself where it was decoded with enough pixels for a chip of each face, else one with all its
        pixels.
        """
        if decoded.scale == 1 or all(align.fit(points).half * 2 * decoded.scale >= align.CHIP for points in landmarks):
            return decoded
        decoded.release()
        return await self._decoders.decode(data, full=True)


def _cut(pixels: NDArray[np.uint8], landmarks: Sequence[Float32Array]) -> list[CutFace]:
    return [cut_face(pixels, points) for points in landmarks]
