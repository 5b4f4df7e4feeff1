"""The bare loop: decode, passes, detect, merge, cut and embed in this process, with the modules that the service runs.

It has no HTTP, log, stores or child processes. The service is compared with it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from facestream.config import Settings
from processors import align
from processors.boxes import Detections, RenderedPass, add_coarser_pass, merge_passes, to_original
from processors.decoding.encoded_image import EncodedImage, set_up_pillow, to_rgb
from processors.networks import Detector, TorchEmbedder
from processors.passes import Detail, Pass, plan_passes, render_pass
from processors.stages.base import SMALLEST_EMBEDDED
from schemas.arrays import Float32Array
from weights.load import choose_device, choose_dtype, load_detector, load_embedder
from weights.manifest import manifest

PARTS = ("decode", "passes", "detect", "merge", "cut", "embed")


@dataclass(frozen=True)
class ShippedNetworks:
    """Detector and embedder of the default generation."""

    detector: Detector
    embedder: TorchEmbedder

    @property
    def dtype(self) -> str:
        return str(self.detector.dtype).removeprefix("torch.")


def load_networks(settings: Settings) -> ShippedNetworks:
    """Raises WeightsInvalid, ConfigurationError."""
    known = manifest()
    generation = known.generation(known.default_generation)
    device = choose_device(settings.device)
    dtype = choose_dtype(device, settings.dtype)
    set_up_pillow()
    return ShippedNetworks(
        Detector(
            load_detector(settings.weights_folder, generation.detector, device, dtype),
            device,
            dtype,
            score_threshold=known.detector(generation.detector).score_threshold,
        ),
        TorchEmbedder(
            load_embedder(settings.weights_folder, generation.embedder, device, dtype), device, mirror=generation.mirror
        ),
    )


@dataclass(frozen=True)
class Decoded:
    """An upright RGB image. width, height: of the original. scale: decoded pixels per original pixel."""

    image: Image.Image
    width: int
    height: int
    scale: float


def decode(data: bytes, max_pixels: int, *, full: bool = False) -> Decoded:
    """Decodes an image; a large JPEG at a reduced scale, unless `full`."""
    source = EncodedImage(data, full=full, detail="normal", max_pixels=max_pixels)
    image = to_rgb(ImageOps.exif_transpose(source.image))
    image.load()
    return Decoded(image, source.width, source.height, source.scale)


def find(detector: Detector, image: Image.Image, detail: Detail = "normal") -> Detections:
    """The faces of one image, best first, in its pixels."""
    width, height = image.size
    passes = [(each, render_pass(image, each)) for each in plan_passes(width, height, detail)]
    found = _detect(detector, [picture for _, picture in passes])
    passes, added = add_coarser_pass(passes, found)
    found += _detect(detector, [picture for _, picture in added])
    return merge_passes(
        [to_original(it, each, width, height) for (each, _), it in zip(passes + added, found, strict=True)]
    )


@dataclass
class Timing:
    """Seconds of each part and of each image. In a batch, each image has the mean."""

    batch: int
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    images: list[tuple[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    faces: int = 0

    @property
    def count(self) -> int:
        return len(self.images)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.parts[name] += time.perf_counter() - begin

    def add(self, other: "Timing") -> None:
        """Adds a later measurement with the same batch size."""
        for name, seconds in other.parts.items():
            self.parts[name] += seconds
        self.images += other.images
        self.seconds += other.seconds
        self.faces += other.faces


def run(
    networks: ShippedNetworks,
    photos: Sequence[tuple[str, bytes]],
    batch: int,
    max_pixels: int,
    done: Callable[[int], None],
) -> Timing:
    """Processes the photos in order, `batch` at a time. done: is called with the number of images of each step."""
    timing = Timing(batch)
    for at in range(0, len(photos), batch):
        begin = time.perf_counter()
        names, faces = _step(networks, photos[at : at + batch], max_pixels, timing)
        seconds = time.perf_counter() - begin
        timing.seconds += seconds
        timing.faces += faces
        timing.images += [(name, seconds / len(names)) for name in names]
        done(len(names))
    return timing


def _step(
    networks: ShippedNetworks, photos: Sequence[tuple[str, bytes]], max_pixels: int, timing: Timing
) -> tuple[list[str], int]:
    with timing.part("decode"):
        decoded = [decode(data, max_pixels) for _, data in photos]
    with timing.part("passes"):
        passes = [
            [(each, _render(image, each)) for each in plan_passes(image.width, image.height)] for image in decoded
        ]
    with timing.part("detect"):
        first = _detect_all(networks.detector, passes)
        complete = [add_coarser_pass(of_one, found) for of_one, found in zip(passes, first, strict=True)]
        second = _detect_all(networks.detector, [added for _, added in complete])
    with timing.part("merge"):
        found = [
            merge_passes(
                [
                    to_original(it, each, image.width, image.height)
                    for (each, _), it in zip(of_one + added, found_first + found_second, strict=True)
                ]
            )
            for image, (of_one, added), found_first, found_second in zip(decoded, complete, first, second, strict=True)
        ]
    chips: list[Float32Array] = []
    for (_, data), image, faces in zip(photos, decoded, found, strict=True):
        landmarks = [
            points for points, box in zip(faces.landmarks, faces.boxes, strict=True) if side(box) >= SMALLEST_EMBEDDED
        ]
        if image.scale < 1 and any(
            align.fit_landmarks(points).half * 2 * image.scale < align.CHIP for points in landmarks
        ):
            with timing.part("decode"):
                image = decode(data, max_pixels, full=True)
        with timing.part("cut"):
            pixels = np.asarray(image.image)
            chips += [align.cut_upright(pixels, points * np.float32(image.scale)) for points in landmarks]
    with timing.part("embed"):
        if chips:
            networks.embedder.embed(chips)
    return [name for name, _ in photos], sum(map(len, found))


def _render(decoded: Decoded, image_pass: Pass) -> NDArray[np.uint8]:
    assert image_pass.tile is None, "the bare loop has whole-image passes only"
    return render_pass(decoded.image, image_pass)


def _detect(detector: Detector, pictures: Sequence[NDArray[np.uint8]]) -> list[Detections]:
    """The detections of each picture. Pictures of one shape share a forward."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, picture in enumerate(pictures):
        by_shape.setdefault(picture.shape, []).append(i)
    found: dict[int, Detections] = {}
    for indices in by_shape.values():
        found.update(zip(indices, detector.detect([pictures[i] for i in indices]), strict=True))
    return [found[i] for i in range(len(pictures))]


def _detect_all(detector: Detector, passes: Sequence[Sequence[RenderedPass]]) -> list[list[Detections]]:
    """The detections of each pass of each image, all images together."""
    found = iter(_detect(detector, [picture for of_one in passes for _, picture in of_one]))
    return [[next(found) for _ in of_one] for of_one in passes]


def side(box: Float32Array) -> float:
    """The root of a box's area. box: (4,), xyxy."""
    return float(np.sqrt(np.prod(box[2:] - box[:2])))


def detector_ms(networks: ShippedNetworks, repeats: int = 15) -> float:
    """The median time of the detector for one picture of 640×480, ms."""
    picture = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    return _median_ms(lambda: networks.detector.detect([picture]), repeats)


def faces_ms(networks: ShippedNetworks, *, mirror: bool, repeats: int = 9) -> float:
    """The median time to cut 32 faces out of a picture of 640×480 and embed them, ms."""
    picture = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    template = np.array(align.DLIB.points, np.float32) * 70
    landmarks = [template + np.array([100 + 13 * i, 240], np.float32) for i in range(32)]
    embedder = TorchEmbedder(networks.embedder.module, networks.embedder.device, mirror=mirror)
    return _median_ms(lambda: embedder.embed([align.cut_upright(picture, points) for points in landmarks]), repeats)


def _median_ms(call: Callable[[], object], repeats: int) -> float:
    call()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds)) * 1e3
