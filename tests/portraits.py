"""Portraits that are drawn: faces that the detector finds, of people who do not exist.

A seed is a person. `zoom`, `shift` and `light` give other photos of the same one.
"""

import io
import random

import numpy as np
from PIL import Image

from schemas.arrays import Float32Array

SKINS = ((224, 172, 140), (205, 150, 115), (160, 105, 75), (235, 190, 165))
HAIR = ((40, 28, 20), (90, 60, 30), (25, 22, 24), (120, 90, 50))
CLOTHES = ((40, 60, 110), (90, 30, 30), (50, 80, 60))
EYES = ((60, 40, 25), (50, 70, 90))
NOISE = 3.0  # standard deviation, grey levels


class Canvas:
    """Soft ellipses in face units: the face's middle is (0, 0), its half height 1."""

    def __init__(self, side: int, zoom: float, shift: tuple[float, float]) -> None:
        """side: pixels."""
        y, x = np.mgrid[0:side, 0:side].astype(np.float32)
        unit = side * 0.3 * zoom
        self.x: Float32Array = (x - side / 2) / unit - shift[0]  # (side, side)
        self.y: Float32Array = (y - side * 0.47) / unit - shift[1]  # (side, side)
        wall = np.array((150, 158, 168), np.float32)
        self.pixels: Float32Array = wall * (1 - 0.15 * self.y[..., None])  # (side, side, 3)

    def ellipse(self, x: float, y: float, a: float, b: float, edge: float = 0.05) -> Float32Array:
        """The coverage of an ellipse with half axes a and b, 0 to 1: (side, side)."""
        distance = np.sqrt(((self.x - x) / a) ** 2 + ((self.y - y) / b) ** 2)
        inside = np.clip((1 - distance) * min(a, b) / (edge / 2), -60, 60)
        return np.asarray(1 / (1 + np.exp(-inside)), np.float32)

    def paint(self, coverage: Float32Array, colour: Float32Array | tuple[int, int, int]) -> None:
        """colour: (3,) or (side, side, 3)."""
        mask = coverage[..., None]
        self.pixels = self.pixels * (1 - mask) + np.asarray(colour, np.float32) * mask

    def shade(self, coverage: Float32Array, factor: float) -> None:
        self.pixels = self.pixels * (1 - coverage[..., None] * (1 - factor))


def portrait(
    seed: int, side: int = 240, *, zoom: float = 1.0, shift: tuple[float, float] = (0, 0), light: float = 0.0
) -> Image.Image:
    """side: pixels of the square picture. zoom 1: the face takes 60 % of it. shift: in half face heights."""
    person = random.Random(seed)
    skin, hair = np.array(person.choice(SKINS), np.float32), np.array(person.choice(HAIR), np.float32)
    clothes, iris = person.choice(CLOTHES), person.choice(EYES)
    width, eye_x, eye_y = person.uniform(0.74, 0.84), person.uniform(0.33, 0.39), person.uniform(-0.14, -0.06)
    nose_y, mouth_y, mouth = person.uniform(0.26, 0.34), person.uniform(0.56, 0.64), person.uniform(0.27, 0.36)
    brow = person.uniform(0.16, 0.22)
    canvas = Canvas(side, zoom, shift)
    ellipse, paint, shade = canvas.ellipse, canvas.paint, canvas.shade
    paint(ellipse(0, 2.05, 1.55, 1.0), clothes)
    paint(ellipse(0, -0.15, width * 1.2, 1.17), hair)
    paint(ellipse(0, 1.0, 0.38, 0.55), skin * 0.72)
    round_ = 1.12 - 0.28 * (canvas.x / width) ** 2 - 0.16 * canvas.y**2 - 0.12 * canvas.x * (1 + light)
    paint(ellipse(0, 0, width, 1.05), skin * np.clip(round_, 0.35, 1.2)[..., None])
    paint(ellipse(0, -0.95, width * 0.98, 0.42, 0.12), hair)
    for side_of_face in (-1, 1):
        x = side_of_face * eye_x
        shade(ellipse(x, eye_y, 0.26, 0.19, 0.16) * 0.55, 0.62)
        shade(ellipse(side_of_face * 0.46, 0.42, 0.2, 0.35, 0.3) * 0.25, 0.75)
        paint(ellipse(x, eye_y, 0.155, 0.07, 0.03), (232, 228, 222))
        paint(ellipse(x, eye_y - 0.005, 0.075, 0.072, 0.03), iris)
        paint(ellipse(x, eye_y - 0.005, 0.036, 0.036, 0.02), (12, 10, 10))
        paint(ellipse(x, eye_y - 0.065, 0.17, 0.022, 0.012), hair * 0.5)
        paint(ellipse(x * 1.04, eye_y - brow, 0.21, 0.04, 0.025) * 0.85, hair * 0.8)
        shade(ellipse(side_of_face * 0.1, nose_y, 0.055, 0.03, 0.03) * 0.9, 0.35)
        shade(ellipse(side_of_face * 0.13, nose_y - 0.03, 0.06, 0.08, 0.08) * 0.4, 0.7)
    shade(ellipse(-0.09, 0.08, 0.05, 0.26, 0.08) * 0.35, 0.75)
    shade(ellipse(0, nose_y + 0.06, 0.17, 0.04, 0.04) * 0.5, 0.62)
    paint(ellipse(0.02, nose_y - 0.08, 0.06, 0.08, 0.1) * 0.25, skin * 1.15)
    paint(ellipse(0, mouth_y - 0.02, mouth, 0.055, 0.03) * 0.9, skin * np.array((0.72, 0.45, 0.45), np.float32))
    paint(ellipse(0, mouth_y + 0.055, mouth * 0.85, 0.06, 0.04) * 0.9, skin * np.array((0.82, 0.55, 0.55), np.float32))
    shade(ellipse(0, mouth_y + 0.012, mouth * 1.02, 0.014, 0.008), 0.3)
    shade(ellipse(0, mouth_y + 0.17, 0.2, 0.05, 0.06) * 0.4, 0.7)
    noise = np.random.default_rng(seed).normal(0, NOISE, (side, side, 1))
    return Image.fromarray(np.clip(canvas.pixels + noise, 0, 255).astype(np.uint8))


def beside(*pictures: Image.Image) -> Image.Image:
    """Pictures of one height, from left to right."""
    canvas = Image.new("RGB", (sum(it.width for it in pictures), pictures[0].height))
    x = 0
    for picture in pictures:
        canvas.paste(picture, (x, 0))
        x += picture.width
    return canvas


def jpeg(picture: Image.Image, quality: int = 85) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()
