"""Cuts the crop or the chip of each face, and embeds it: one vector per face and generation.

A learned face is always embedded from its decoded crop, so that a replay gives the same vector.
"""

import asyncio
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from processors import align
from processors.inference import PICTURE_DONE_S, Inference, Picture
from schemas.arrays import Float32Array
from schemas.generation_records import Generation

Pixels = NDArray[np.uint8]

CHIPS_PER_STEP = 64  # chips of one image in memory at a time, 17 MB of floats
CROP_QUALITY = 95
P = ParamSpec("P")
T = TypeVar("T")


class CropThreads:
    """Threads that cut and encode faces. Each uses one core: torch starts no further threads in them."""

    def __init__(self) -> None:
        cores = len(os.sched_getaffinity(0))
        self._threads = ThreadPoolExecutor(cores, "cut", initializer=torch.set_num_threads, initargs=(1,))

    async def run(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*arguments, **named))

    def close(self) -> None:
        self._threads.shutdown()


@dataclass(frozen=True, slots=True)
class FaceCrop:
    """A crop: pixels (240, 240, 3), and the landmarks (5, 2) in them."""

    pixels: Pixels
    landmarks: Float32Array


def cut_face(pixels: Pixels, landmarks: Float32Array) -> FaceCrop:
    """The crop of a face. pixels: (h, w, 3). landmarks: (5, 2), in those pixels."""
    return FaceCrop(
        align.cut_crop(pixels, landmarks), align.landmarks_in_crop(landmarks, align.fit_landmarks(landmarks))
    )


def encode_crop(crop: Pixels) -> bytes:
    """The crop as a JPEG (4:4:4), as it is stored. crop: (240, 240, 3)."""
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "JPEG", quality=CROP_QUALITY, subsampling=0)
    return file.getvalue()


def decode_crop(data: bytes) -> Pixels:
    """The pixels of a stored crop, (240, 240, 3)."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
        return np.asarray(picture.convert("RGB"))


def jpeg_round_trip(crop: FaceCrop) -> FaceCrop:
    """The crop, encoded and decoded again, so that its vector is the one that a replay computes from the stored
    JPEG.
    """
    return FaceCrop(decode_crop(encode_crop(crop.pixels)), crop.landmarks)


def chips_of_crop(crop: FaceCrop, templates: Iterable[str]) -> dict[str, Picture]:
    """The chip for each template. crop: as decoded from its JPEG."""
    return {
        template: (
            align.chip_of_crop(crop.pixels)
            if template == align.DEFAULT
            else align.warp_chip(crop.pixels, crop.landmarks, template)
        )
        for template in set(templates)
    }


async def embed_crops(
    crops: Mapping[str, FaceCrop],
    fallback_detector: str,
    generations: Sequence[Generation],
    crop_threads: CropThreads,
    inference: Inference,
    since: float,
) -> dict[str, Float32Array]:
    """The vectors, (D,), of a learned face by generation.

    crops: by detector, as decoded from their JPEGs. fallback_detector: the one whose crop is used by generations whose
    own detector has not found the face.
    """
    by_crop: dict[str, list[Generation]] = {}
    for it in generations:
        by_crop.setdefault(it.detector if it.detector in crops else fallback_detector, []).append(it)
    parts = [
        embed_crop(crops[detector], of_one, crop_threads, inference, since) for detector, of_one in by_crop.items()
    ]
    return {name: vector for part in await asyncio.gather(*parts) for name, vector in part.items()}


async def embed_crop(
    crop: FaceCrop, generations: Sequence[Generation], crop_threads: CropThreads, inference: Inference, since: float
) -> dict[str, Float32Array]:
    """The vectors, (D,), of one crop by generation."""
    chips = await crop_threads.run(chips_of_crop, crop, [it.template for it in generations])
    vectors = await asyncio.gather(*(inference.embed(it.name, [chips[it.template]], since) for it in generations))
    return {it.name: of_one[0] for it, of_one in zip(generations, vectors, strict=True)}


async def embed_probes(
    pixels: Pixels,
    landmarks: Sequence[Float32Array],
    generation: Generation,
    crop_threads: CropThreads,
    inference: Inference,
    since: float,
) -> list[Float32Array]:
    """The vectors, (D,) each, of faces in a photo. landmarks: (5, 2) each, in `pixels`."""
    vectors: list[Float32Array] = []
    for begin in range(0, len(landmarks), CHIPS_PER_STEP):
        part = landmarks[begin : begin + CHIPS_PER_STEP]
        chips = await crop_threads.run(_warp_chips, pixels, part, generation.template)
        vectors += list(await inference.embed(generation.name, chips, since + begin * PICTURE_DONE_S))
    return vectors


def _warp_chips(pixels: Pixels, landmarks: Sequence[Float32Array], template: str) -> list[Float32Array]:
    return [align.warp_chip(pixels, points, template) for points in landmarks]
