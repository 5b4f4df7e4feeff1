"""The embed stage: cut the crop or the chip of each face, one vector a face and generation.

A learned face is embedded from its decoded crop, live too, so that a replay gives the same vector.
"""

import asyncio
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from processors import align
from processors.inference import PICTURE_S, Inference, Picture
from schemas.generations import Generation

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

AT_ONCE = 64  # chips in memory at a time for one image, 17 MB of floats
CROP_QUALITY = 95
P = ParamSpec("P")
T = TypeVar("T")


class Cutting:
    """The threads that cut and code faces: one core each, so that they make no teams of threads beside that of the inference."""

    def __init__(self) -> None:
        cores = len(os.sched_getaffinity(0))
        self._threads = ThreadPoolExecutor(cores, "cut", initializer=torch.set_num_threads, initargs=(1,))

    async def run(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*arguments, **named))

    def close(self) -> None:
        self._threads.shutdown()


def encoded_crop(pixels: Pixels, landmarks: Floats) -> tuple[bytes, Floats]:
    """The kept picture of a face as JPEG (4:4:4), and the landmarks in its pixels, (5, 2).

    pixels: (h, w, 3). landmarks: (5, 2), in those pixels.
    """
    file = io.BytesIO()
    Image.fromarray(align.crop(pixels, landmarks)).save(file, "JPEG", quality=CROP_QUALITY, subsampling=0)
    return file.getvalue(), align.crop_landmarks(landmarks, align.fit(landmarks))


def decoded_crop(data: bytes) -> Pixels:
    """(240, 240, 3)."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
        return np.asarray(picture.convert("RGB"))


def chips_of_crop(crop: Pixels, landmarks: Floats, templates: Iterable[str]) -> dict[str, Picture]:
    """The chip for each template from a kept crop. crop: (240, 240, 3), landmarks: (5, 2), in its pixels."""
    return {
        template: align.chip_of_crop(crop) if template == align.DEFAULT else align.warp_chip(crop, landmarks, template)
        for template in set(templates)
    }


async def embed_crop(
    data: bytes, landmarks: Floats, generations: Sequence[Generation], cutting: Cutting, inference: Inference, since: float
) -> dict[str, Floats]:
    """The vectors, (D,), of a learned face by generation, from its crop. landmarks: (5, 2), in pixels of the crop."""
    crop = await cutting.run(decoded_crop, data)
    chips = await cutting.run(chips_of_crop, crop, landmarks, [it.template for it in generations])
    vectors = await asyncio.gather(*(inference.embed(it.name, [chips[it.template]], since) for it in generations))
    return {it.name: of_one[0] for it, of_one in zip(generations, vectors, strict=True)}


async def embed_probes(
    pixels: Pixels, landmarks: Sequence[Floats], generation: Generation, cutting: Cutting, inference: Inference, since: float
) -> list[Floats]:
    """The vectors, (D,) each, of faces in a photo. landmarks: (5, 2) each, in `pixels`."""
    vectors: list[Floats] = []
    for begin in range(0, len(landmarks), AT_ONCE):
        part = landmarks[begin : begin + AT_ONCE]
        chips = await cutting.run(_chips, pixels, part, generation.template)
        vectors += list(await inference.embed(generation.name, chips, since + begin * PICTURE_S))
    return vectors


def _chips(pixels: Pixels, landmarks: Sequence[Floats], template: str) -> list[Floats]:
    return [align.warp_chip(pixels, points, template) for points in landmarks]
