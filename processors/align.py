"""Turns faces upright: fits a similarity transform of five landmarks to a template, and samples the pixels under it.

Two pictures of a face are cut: the 150-pixel chip for the default embedder, and the 240-pixel crop that is stored. Both
have the same pixel pitch, so that the middle of the crop is the chip. Positions are pixel indices, (x, y); the centre
of the first pixel is 0.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from schemas.arrays import Float32Array, FloatArray
from schemas.errors import ConfigurationError

Pixels = NDArray[np.uint8]

CHIP = 150  # pixels
CROP = 240  # pixels, at the chip's pitch: 1.6 half-sides to each side

# Source pixels per pixel of the picture. Up to ONE_SAMPLE one bilinear sample is enough; above it two are averaged in
# each direction. Above REDUCE the source is first reduced by a whole number, to ONE_SAMPLE or less, so that no source
# pixel is skipped.
ONE_SAMPLE = 1.5
REDUCE = 4.0


@dataclass(frozen=True)
class Template:
    """Where eyes, nose tip and mouth corners are in a picture of `side` pixels, in half-sides from its centre."""

    side: int
    points: tuple[tuple[float, float], ...]  # five (x, y); half a side is (side - 1) / 2 pixels

    @property
    def half(self) -> float:
        return (self.side - 1) / 2

    def scale_to(self, side: int) -> "Template":
        """The same template for a picture of another side.

        Positions scale from the centre of the first pixel, as in insightface and dlib.
        """
        pixels = [
            ((x + 1) * self.half * side / self.side, (y + 1) * self.half * side / self.side) for x, y in self.points
        ]
        return template_from_pixels(side, pixels)


def template_from_pixels(side: int, points: list[tuple[float, float]]) -> Template:
    """A template from points in pixels of the picture."""
    half = (side - 1) / 2
    return Template(side, tuple((x / half - 1, y / half - 1) for x, y in points))


TEMPLATES = {
    # where CenterFace finds the landmarks on dlib's own chips
    "dlib": Template(
        CHIP, ((-0.3566, -0.3826), (0.3730, -0.3812), (0.0040, 0.0563), (-0.3061, 0.4328), (0.3262, 0.4319))
    ),
    # insightface, python-package/insightface/utils/face_align.py, `arcface_dst`
    "arcface": template_from_pixels(
        112, [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
    ),
}
DLIB = TEMPLATES["dlib"]
DEFAULT = "dlib-150"


@lru_cache
def parse_template(name: str) -> Template:
    """name: a key of TEMPLATES and the side in pixels, 'arcface-112' for example. Raises ConfigurationError."""
    family, _, side = name.rpartition("-")
    if family not in TEMPLATES or not side.isascii() or not side.isdigit() or int(side) < 2:
        raise ConfigurationError(
            f"no template '{name}': give one of {', '.join(TEMPLATES)} and its side in pixels, as in {DEFAULT}"
        )
    known = TEMPLATES[family]
    return known if int(side) == known.side else known.scale_to(int(side))


@dataclass(frozen=True)
class SimilarityTransform:
    """Maps a template onto a rotated square in an image: its centre and half its side in pixels, and its angle in
    radians, from x towards y.
    """

    centre: tuple[float, float]
    half: float
    angle: float


def fit_landmarks(landmarks: FloatArray, template: Template = DLIB) -> SimilarityTransform:
    """The similarity transform that best maps a template onto landmarks (least squares).

    landmarks: (5, 2), pixels. The default template, in half-sides from the centre of dlib's chip: eyes (-.3566, -.3826)
    and (.3730, -.3812), nose tip (.0040, .0563), mouth corners (-.3061, .4328) and (.3262, .4319).
    """
    source, target = np.array(template.points), landmarks.astype(np.float64)
    source_mean, target_mean = source.mean(0), target.mean(0)
    s, t = source - source_mean, target - target_mean
    norm = (s**2).sum()
    a = float((s * t).sum() / norm)
    b = float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum() / norm)
    x, y = target_mean - np.array([[a, -b], [b, a]]) @ source_mean
    return SimilarityTransform((float(x), float(y)), math.hypot(a, b), math.atan2(b, a))


def cut_upright(pixels: Pixels, landmarks: FloatArray, side: int = CHIP) -> Float32Array:
    """The upright picture of a face at the pitch of dlib's chip: pixel i is (i - (side - 1) / 2) / 74.5 half-sides off
    centre.

    pixels: (H, W, 3). landmarks: (5, 2), in those pixels. side: 150 for the chip, 240 for the crop. Returns (side,
    side, 3), 0..255, not rounded; 0 outside the image.
    """
    return sample_square(pixels, fit_landmarks(landmarks), side, DLIB)


def cut_crop(pixels: Pixels, landmarks: FloatArray) -> Pixels:
    """The crop of a face that is stored, cut from the original's pixels. Returns (240, 240, 3)."""
    return round_pixels(cut_upright(pixels, landmarks, CROP))


def round_pixels(picture: Float32Array) -> Pixels:
    return np.rint(picture).astype(np.uint8)


def chip_of_crop(crop: Pixels) -> Pixels:
    """crop: (240, 240, 3). Returns its middle (150, 150, 3): dlib's chip."""
    edge = (CROP - CHIP) // 2
    return crop[edge : edge + CHIP, edge : edge + CHIP]


def landmarks_in_crop(landmarks: FloatArray, transform: SimilarityTransform) -> Float32Array:
    """Converts landmarks from pixels of the original to pixels of the crop. Both (5, 2); transform:
    fit_landmarks(landmarks).
    """
    cos, sin = math.cos(transform.angle), math.sin(transform.angle)
    moved = landmarks.astype(np.float64) - np.array(transform.centre)
    scale = DLIB.half / transform.half if transform.half else 0.0
    upright: NDArray[np.float64] = moved @ np.array([[cos, -sin], [sin, cos]]) * scale + (CROP - 1) / 2
    return upright.astype(np.float32)


def warp_chip(pixels: Pixels, landmarks: FloatArray, template: str) -> Float32Array:
    """The chip for an embedder with another template, from a crop or from the original.

    pixels: (H, W, 3), a crop or a photo. landmarks: (5, 2), in those pixels. template: its name and side, as
    parse_template takes it. Returns (side, side, 3), 0..255, not rounded.
    """
    chosen = parse_template(template)
    return sample_square(pixels, fit_landmarks(landmarks, chosen), chosen.side, chosen)


def sample_square(pixels: Pixels, square: SimilarityTransform, side: int, template: Template) -> Float32Array:
    """Samples a rotated square bilinearly, with antialiasing if it is shrunk.

    pixels: (H, W, 3). side: of the picture, which has the template's pitch and centre. Returns (side, side, 3), 0..255.
    """
    pitch = square.half / template.half  # source pixels per pixel of the picture
    factor = math.ceil(pitch / ONE_SAMPLE) if pitch > REDUCE else 1
    over = 2 if pitch / factor > ONE_SAMPLE else 1
    cos, sin = math.cos(square.angle) * pitch, math.sin(square.angle) * pitch

    reach = (abs(cos) + abs(sin)) * side / 2 + 1
    left, top = (max(0, math.floor(c - reach)) for c in square.centre)
    right, bottom = (
        min(limit, math.ceil(c + reach) + 1) for c, limit in zip(square.centre, pixels.shape[1::-1], strict=True)
    )
    if left >= right or top >= bottom:
        return np.zeros((side, side, 3), np.float32)
    region = pixels[top:bottom, left:right]
    if factor > 1:
        region = np.asarray(Image.fromarray(region).reduce(factor))

    # in pixels of the region, then in grid_sample's -1..1 from the first pixel's edge to the last one's
    height, width = region.shape[:2]
    x0, y0 = ((c - start + 0.5) / factor - 0.5 for c, start in zip(square.centre, (left, top), strict=True))
    positions = sample_positions(side, over)  # (side * over,), in pixels of the picture from its centre
    grid = torch.empty(1, side * over, side * over, 2)
    x_step, y_step = 2 / (width * factor), 2 / (height * factor)
    torch.add(
        positions * (cos * x_step),
        (positions * (-sin * x_step) + ((2 * x0 + 1) / width - 1))[:, None],
        out=grid[0, ..., 0],
    )
    torch.add(
        positions * (sin * y_step),
        (positions * (cos * y_step) + ((2 * y0 + 1) / height - 1))[:, None],
        out=grid[0, ..., 1],
    )

    source = torch.tensor(region).permute(2, 0, 1)[None].float()  # (1, 3, h, w)
    picture = F.grid_sample(source, grid, align_corners=False)  # (1, 3, side * over, side * over)
    if over > 1:
        picture = F.avg_pool2d(picture, over)  # (1, 3, side, side)
    result: Float32Array = picture[0].permute(1, 2, 0).contiguous().numpy()
    return result


@lru_cache
def sample_positions(side: int, over: int) -> Tensor:
    """The positions of a row's samples, in pixels of the picture from its centre. (side * over,), float32."""
    return ((torch.arange(side * over, dtype=torch.float64) + 0.5) / over - side / 2).float()
