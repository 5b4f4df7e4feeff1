"""Tries a user's own embedder before it is added, in the inference thread, as the service will run it.

It embeds two faces, one of them twice: as a probe, and from its crop as a learned face. The faces are drawn or found in
a picture.
"""

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from facestream.config import Settings
from facestream.runtime.roles.process import empty_networks, make_detector
from processors import align
from processors.decoding.pool import DecodePool
from processors.detect import find_faces
from processors.embed import chips_of_crop, cut_face, jpeg_round_trip
from processors.inference import Inference
from processors.onnx_embedder import load_onnx_embedder
from schemas.arrays import Float32Array
from schemas.errors import NoFace, WeightsInvalid
from schemas.generation_records import Generation
from weights.load import choose_device, choose_dtype

PictureWithLandmarks = tuple[NDArray[np.uint8], Float32Array]  # a picture (h, w, 3) and its landmarks (5, 2), in pixels

FACES_PER_FORWARD = 8  # faces in one forward
REPEATS = 3  # forwards that are timed for each face
# Allowed errors, as shares of the distance of the two faces or of a vector's length. float32 has 1e-6, TF32 on a GPU
# 1e-3.
MOST_DEVIATION = 0.05
LEAST_DISTANCE = 1e-3


@dataclass(frozen=True)
class OnnxTrial:
    dimension: int
    alone_ms: float  # for a face in a separate forward
    together_ms: float  # for a face in a forward of eight
    same: float  # cosine of one face as a probe and as a learned face
    other: float  # cosine of that probe and another face
    device: str


async def try_network(settings: Settings, content: bytes, generation: Generation, picture: bytes | None) -> OnnxTrial:
    """Tries a network. content: the ONNX file. generation: with any dimension. picture: a photo with a face in it.
    Raises WeightsInvalid, ConfigurationError, NoFace, and what decoding raises.
    """
    device = choose_device(settings.device)
    dtype = choose_dtype(device, settings.dtype)
    async with AsyncExitStack() as stack:
        inference = Inference(empty_networks(device), settings.threads)
        stack.callback(inference.close)
        await inference.add_embedder(generation.name, partial(load_onnx_embedder, content, generation, device))
        faces = [draw_face(0), draw_face(1)]
        if picture is not None:
            detector = generation.detector
            await inference.add_detector(detector, partial(make_detector, settings, device, dtype, detector))
            decoders = DecodePool(workers=1, max_pixels=settings.max_pixels)
            await decoders.start()
            stack.push_async_callback(decoders.close)
            faces = [*await _find_faces(picture, detector, decoders, inference), draw_face(1)]
        (probe, learned), (other, _) = (_chips(face, generation.template) for face in faces[:2])
        return await _run_trial(inference, generation.name, probe, learned, other, str(device))


def draw_face(seed: int) -> PictureWithLandmarks:
    """Draws a picture like a stored crop, with eyes, nose and mouth at the landmarks."""
    chance = np.random.default_rng(seed)
    colours = [tuple(int(it) for it in chance.integers(30, 226, 3)) for _ in range(4)]
    points = (np.array(align.DLIB.points) * align.DLIB.half + (align.CROP - 1) / 2).astype(np.float32)
    image = Image.new("RGB", (align.CROP, align.CROP), colours[0])
    draw = ImageDraw.Draw(image)
    draw.ellipse((60 - 8 * chance.random(), 30, 180 + 8 * chance.random(), 210), colours[1])
    for x, y in points[:3]:
        radius = chance.uniform(5, 11)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), colours[2])
    draw.line([tuple(point) for point in points[3:].tolist()], colours[3], width=int(chance.integers(4, 12)))
    return np.asarray(image), points


async def _find_faces(
    picture: bytes, detector: str, decoders: DecodePool, inference: Inference
) -> list[PictureWithLandmarks]:
    """The faces of a photo, the largest first. Raises NoFace."""
    with await decoders.decode(picture) as image:
        found = await find_faces(image, detector, inference, time.monotonic())
    if not len(found):
        raise NoFace("no face was found in the picture of --try: choose one that shows a face from the front")
    with await decoders.decode(picture, full=True) as image:
        pixels = image.pixels.copy()
    sizes = [float(np.prod(box[2:] - box[:2])) for box in found.boxes]
    return [(pixels, found.landmarks[i]) for i in np.argsort(sizes)[::-1]]


def _chips(face: PictureWithLandmarks, template: str) -> tuple[Float32Array, Float32Array]:
    """The chip of the face as a probe, from the picture, and as a learned face, from its crop. (side, side, 3) each."""
    learned = chips_of_crop(jpeg_round_trip(cut_face(*face)), [template])[template].astype(np.float32)
    return align.warp_chip(*face, template), learned


async def _run_trial(
    inference: Inference, name: str, probe: Float32Array, learned: Float32Array, other: Float32Array, device: str
) -> OnnxTrial:
    """Embeds the chips, checks the vectors and measures the times. Raises WeightsInvalid."""
    alone: list[Float32Array] = []
    seconds = []
    for chip in (probe, learned, other) * REPEATS:
        begin = time.perf_counter()
        alone += list(await inference.embed(name, [chip]))
        seconds.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    together = await inference.embed(name, [probe, other] * (FACES_PER_FORWARD // 2))
    together_s = time.perf_counter() - begin
    _check(alone, together)
    a, b, c = alone[:3]
    return OnnxTrial(
        len(a),
        float(np.median(seconds)) * 1e3,
        together_s / FACES_PER_FORWARD * 1e3,
        _cosine(a, b),
        _cosine(a, c),
        device,
    )


def _check(alone: Sequence[Float32Array], together: Float32Array) -> None:
    """alone: vectors of probe, crop and other face, repeated. together: of probe and other face, in turn. (D,) each."""
    probe, other = alone[0], alone[2]
    if not np.isfinite(alone).all() or not np.isfinite(together).all():
        raise WeightsInvalid("the network gives numbers that are not finite: does --range match its training?")
    length, distance = float(np.linalg.norm(probe)), float(np.linalg.norm(probe - other))
    if distance <= LEAST_DISTANCE * length or length == 0:
        raise WeightsInvalid("the network gives the same vector for different faces: does --range match its training?")
    if (
        max(np.linalg.norm(again - first) for again, first in zip(alone[3:], alone, strict=False))
        > MOST_DEVIATION * distance
    ):
        raise WeightsInvalid(
            "the network gives a different vector each time: export it for inference, in torch after .eval()"
        )
    if (
        max(np.linalg.norm(together[0::2] - probe, axis=1).max(), np.linalg.norm(together[1::2] - other, axis=1).max())
        > MOST_DEVIATION * distance
    ):
        raise WeightsInvalid(
            f"in a batch of {FACES_PER_FORWARD} faces the network gives other vectors than for each alone: export it"
            " with a batch fixed at 1"
        )


def _cosine(one: Float32Array, other: Float32Array) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
