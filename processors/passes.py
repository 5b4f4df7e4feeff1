"""Passes: resized or cut versions of an image, in which the detector looks for faces.

CenterFace finds a face by its whole shape, up to a few hundred pixels, and misses larger ones. So a large image gets a
small pass for its large faces and a large pass for its small ones. No torch here: the decoding processes import this.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Detail = Literal["normal", "high"]

# The numbers are measured with bench/accuracy/detection.py. If LFW portraits are enlarged to 1,024 px, the detector
# misses none. At 2,048 px it misses nearly all, and finds parts of the face instead, each larger than 400 px.
COARSE = 1024  # pixels of the long side at which no face is too large to be found
FINE = 2048  # pixels of the long side at which small faces are searched
# Pixels. A larger face is left to the next coarser pass. If there is none, one is added: of LFW portraits enlarged to
# 2,000 px, the pass at 1,024 misses one, and the vectors have a cosine of .994 to those of the original portraits. With
# a pass at 512 it is .996 (worst .98).
LARGEST = 320.0
# Street photos of 400 px, score .51: the recall of faces of 16 to 32 px is .77 as they are, .86 with an enlarged pass.
ENLARGE = 1.5  # how much a small image is enlarged for its second pass, at most
ENLARGED = 640  # pixels of the long side of an enlarged pass, at most: a larger one would take three times as long
WORTHWHILE = 1.15  # a second pass that is larger than the first by less than this finds no more faces
TILE = 1024  # pixels a side
TILE_OVERLAP = 128  # pixels: a face up to this size is complete in some tile; whole-image passes find larger ones


@dataclass(frozen=True)
class Pass:
    """A version of an image: the part `tile`, resized to `width` × `height`, at the top left of a padded picture."""

    scale: float  # pixels of the pass per pixel of the original
    tile: tuple[int, int, int, int] | None  # left, top, right, bottom in original pixels; None: the whole image
    width: int  # of the content, in pixels of the pass
    height: int
    largest: float = math.inf  # in pixels of the pass: faces with a larger side are dropped

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the padded picture."""
        return padded_side(self.height), padded_side(self.width)


def plan_passes(width: int, height: int, detail: Detail = "normal") -> list[Pass]:
    """The passes over an image of width × height pixels, coarse first. `high` adds tiles of large images at scale 1."""
    longest = max(width, height)
    coarse = min(1.0, COARSE / longest)
    fine = min(1.0, FINE / longest) if longest > COARSE else min(ENLARGE, ENLARGED / longest)
    passes = [whole_image(width, height, coarse)]
    if fine >= coarse * WORTHWHILE:
        passes.append(whole_image(width, height, fine, LARGEST))
    if detail == "high" and longest > FINE:
        passes += [
            Pass(1.0, (left, top, right, bottom), right - left, bottom - top, LARGEST)
            for top, bottom in tile_spans(height)
            for left, right in tile_spans(width)
        ]
    return passes


def halve_pass(image_pass: Pass, picture: NDArray[np.uint8]) -> tuple[Pass, NDArray[np.uint8]]:
    """The pass at half the scale, made from the padded picture of a pass over the whole image."""
    half = Pass(image_pass.scale / 2, None, max(1, image_pass.width // 2), max(1, image_pass.height // 2), math.inf)
    height, width = half.height * 2, half.width * 2
    quads = picture[:height, :width].reshape(half.height, 2, half.width, 2, 3)
    padded = np.zeros((*half.shape, 3), np.uint8)
    padded[: half.height, : half.width] = (quads.sum((1, 3), np.uint16) + 2) // 4
    return half, padded


def whole_image(width: int, height: int, scale: float, largest: float = math.inf) -> Pass:
    return Pass(scale, None, max(1, round(width * scale)), max(1, round(height * scale)), largest)


def tile_spans(length: int) -> list[tuple[int, int]]:
    """Begin and end of each tile along a side: at most TILE pixels, evenly spread, overlapping by TILE_OVERLAP."""
    count = max(1, math.ceil((length - TILE_OVERLAP) / (TILE - TILE_OVERLAP)))
    size = min(length, TILE)
    starts = [round(index * (length - size) / max(1, count - 1)) for index in range(count)]
    return [(start, start + size) for start in starts]


def padded_side(side: int) -> int:
    """A side rounded up to a multiple of 32, above 512 to one of 64, so that images of similar size share one shape."""
    step = 32 if side <= 512 else 64
    return math.ceil(side / step) * step


def render_pass(image: Image.Image, image_pass: Pass) -> NDArray[np.uint8]:
    """The picture of a pass. image: RGB, upright. Returns (H, W, 3), black where padded."""
    picture = image if image_pass.tile is None else image.crop(image_pass.tile)
    if picture.size != (image_pass.width, image_pass.height):
        picture = picture.resize((image_pass.width, image_pass.height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    padded = np.zeros((*image_pass.shape, 3), np.uint8)
    padded[: image_pass.height, : image_pass.width] = np.asarray(picture)
    return padded
