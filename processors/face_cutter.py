"""Cuts the crops of faces, and finds the landmarks of a face with another detector."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from processors import align
from processors.boxes import index_of_closest
from processors.decoding.pool import DecodedImage, DecodePool
from processors.detect import find_faces
from processors.embed import CropThreads, FaceCrop, cut_face
from processors.inference import Inference
from schemas.arrays import Float32Array


class FaceCutter:
    """Cuts faces out of decoded images. Decodes the image at full size if a face needs more pixels."""

    def __init__(self, decoders: DecodePool, crop_threads: CropThreads, inference: Inference) -> None:
        self._decoders, self._crop_threads, self._inference = decoders, crop_threads, inference

    async def cut(self, data: bytes, decoded: DecodedImage, landmarks: Sequence[Float32Array]) -> list[FaceCrop]:
        """The crops of faces. data: the file of `decoded`, which is released. landmarks: (5, 2) each, in pixels of the
        upright original.
        """
        with await self.ensure_enough_pixels(data, decoded, landmarks) as fine:
            return await self._crop_threads.run(_cut, fine.pixels, [points * fine.scale for points in landmarks])

    async def find_landmarks(
        self, detector: str, decoded: DecodedImage, box: Sequence[int], since: float
    ) -> Float32Array | None:
        """The landmarks, (5, 2), that this detector finds for the face at `box`; None if it finds no face there.

        In pixels of the upright original. since: as in Inference.detect.
        """
        found = await find_faces(decoded, detector, self._inference, since)
        index = index_of_closest(found, box)
        return None if index is None else found.landmarks[index]

    async def ensure_enough_pixels(
        self, data: bytes, decoded: DecodedImage, landmarks: Sequence[Float32Array]
    ) -> DecodedImage:
        """The same image if it has enough pixels for the chip of each face, else the image decoded at full size."""
        if decoded.scale == 1 or all(
            align.fit_landmarks(points).half * 2 * decoded.scale >= align.CHIP for points in landmarks
        ):
            return decoded
        decoded.release()
        return await self._decoders.decode(data, full=True)


def _cut(pixels: NDArray[np.uint8], landmarks: Sequence[Float32Array]) -> list[FaceCrop]:
    return [cut_face(pixels, points) for points in landmarks]
