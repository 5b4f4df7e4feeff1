"""Which versions of an image the detector looks at: small enough for large faces, large enough for small ones.

CenterFace finds a face by its whole shape up to a few hundred pixels and misses larger ones, so a large image is seen
twice. Without torch: the processes that decode import it.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Detail = Literal["normal", "high"]

# Measured with bench/detection.py. Of LFW portraits enlarged to 1,024 px none is missed; at 2,048 nearly all are, and
# parts of the face are found in its place, every one larger than 400 px.
COARSE = 1024  # pixels of the long side at which no face is too large to be found
FINE = 2048  # pixels of the long side at which an image's small faces are looked for
# Pixels of a pass above which a face is the next coarser pass's. Where that is none, one is made: the vector of an LFW
# portrait enlarged to 2,000 px has a cosine of .994 to the original's in the pass at 1,024, which misses one, of .996
# at 512 (worst .98).
LARGEST = 320.0
# Street photos of 400 px, score .51: recall of 16–32 px .77 as they are, .86 with the enlarged pass.
ENLARGE = 1.5  # how much a small image is enlarged for its second pass, at most
ENLARGED = (
    640  # pixels of the long side up to which that is done: a larger one would cost most photos three times the time
)
WORTHWHILE = 1.15  # a second pass larger than the first by less than this finds nothing new
TILE = 1024
TILE_OVERLAP = (
    128  # a face up to this size is whole in one tile; a larger one is found by the passes over the whole image
)


@dataclass(frozen=True)
class Pass:
    """One look at an image: the part `tile`, resized to `width` × `height`, in the top left of a padded picture."""

    scale: float  # pixels of the pass per pixel of the original
    tile: tuple[int, int, int, int] | None  # left, top, right, bottom in original pixels; None: the whole image
    width: int  # of the content, pixels of the pass
    height: int
    largest: float = math.inf  # side of the largest face, in pixels of the pass, that this pass is to be believed

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the padded picture."""
        return bucket(self.height), bucket(self.width)


def plan(width: int, height: int, detail: Detail = "normal") -> list[Pass]:
    """The passes over an image of width × height pixels, coarse first. `high` adds a large image's own pixels in tiles."""
    longest = max(width, height)
    coarse = min(1.0, COARSE / longest)
    fine = min(1.0, FINE / longest) if longest > COARSE else min(ENLARGE, ENLARGED / longest)
    passes = [whole(width, height, coarse)]
    if fine >= coarse * WORTHWHILE:
        passes.append(whole(width, height, fine, LARGEST))
    if detail == "high" and longest > FINE:
        passes += [
            Pass(1.0, (left, top, right, bottom), right - left, bottom - top, LARGEST)
            for top, bottom in spans(height)
            for left, right in spans(width)
        ]
    return passes


def halved(each: Pass, picture: NDArray[np.uint8]) -> tuple[Pass, NDArray[np.uint8]]:
    """A pass at half the scale, from the padded picture of a pass over the whole image."""
    half = Pass(each.scale / 2, None, max(1, each.width // 2), max(1, each.height // 2), math.inf)
    height, width = half.height * 2, half.width * 2
    quads = picture[:height, :width].reshape(half.height, 2, half.width, 2, 3)
    padded = np.zeros((*half.shape, 3), np.uint8)
    padded[: half.height, : half.width] = (quads.sum((1, 3), np.uint16) + 2) // 4
    return half, padded


def whole(width: int, height: int, scale: float, largest: float = math.inf) -> Pass:
    return Pass(scale, None, max(1, round(width * scale)), max(1, round(height * scale)), largest)


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
