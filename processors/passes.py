"""Which versions of an image the detector looks at: small enough for large faces, large enough for small ones.

CenterFace finds a face by its whole shape up to a few hundred pixels and misses larger ones, so a large image is seen twice. Without
torch: the processes that decode import it.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Detail = Literal["normal", "high"]

COARSE = 1024  # pixels of the long side at which no face is too large to be found
FINE = 2048  # pixels of the long side at which an image's small faces are looked for
ENLARGE = 1.5  # how much an image below COARSE is enlarged, at most
WORTHWHILE = 1.15  # an enlargement or a second pass by less than this finds nothing new
TILE = 1024
TILE_OVERLAP = 128  # a face up to this size is whole in one tile; a larger one is found by the passes over the whole image


@dataclass(frozen=True)
class Pass:
    """One look at an image: the part `tile`, resized to `width` × `height`, in the top left of a padded picture."""

    scale: float  # pixels of the pass per pixel of the original
    tile: tuple[int, int, int, int] | None  # left, top, right, bottom in original pixels; None: the whole image
    width: int  # of the content, pixels of the pass
    height: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the padded picture."""
        return bucket(self.height), bucket(self.width)


def plan(width: int, height: int, detail: Detail = "normal") -> list[Pass]:
    """The passes over an image of width × height pixels, coarse first. `high` also looks at the original pixels of a large image."""
    longest = max(width, height)
    if longest <= COARSE:
        scale = min(ENLARGE, COARSE / longest)
        return [whole(width, height, scale if scale >= WORTHWHILE else 1.0)]
    passes = [whole(width, height, COARSE / longest)]
    fine = min(1.0, FINE / longest)
    if fine * longest >= COARSE * WORTHWHILE:
        passes.append(whole(width, height, fine))
    if detail == "high" and longest > FINE:
        passes += [
            Pass(1.0, (left, top, right, bottom), right - left, bottom - top)
            for top, bottom in spans(height)
            for left, right in spans(width)
        ]
    return passes


def whole(width: int, height: int, scale: float) -> Pass:
    return Pass(scale, None, max(1, round(width * scale)), max(1, round(height * scale)))


def spans(length: int) -> list[tuple[int, int]]:
    """Spans of at most TILE pixels over a side, evenly spread, that overlap by at least TILE_OVERLAP."""
    count = max(1, math.ceil((length - TILE_OVERLAP) / (TILE - TILE_OVERLAP)))
    size = min(length, TILE)
    starts = [round(index * (length - size) / max(1, count - 1)) for index in range(count)]
    return [(start, start + size) for start in starts]


def bucket(side: int) -> int:
    """The padded length of a side: a multiple of 32, of 64 above 512, so that images of like size share one shape."""
    step = 32 if side <= 512 else 64
    return math.ceil(side / step) * step


def render(image: Image.Image, each: Pass) -> NDArray[np.uint8]:
    """The picture of a pass. image: RGB, upright. Returns (H, W, 3), black where padded."""
    picture = image if each.tile is None else image.crop(each.tile)
    if picture.size != (each.width, each.height):
        picture = picture.resize((each.width, each.height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    padded = np.zeros((*each.shape, 3), np.uint8)
    padded[: each.height, : each.width] = np.asarray(picture)
    return padded
