"""Faces in records and answers: position, crop and vectors.

Boxes are [x1, y1, x2, y2] and landmarks five (x, y): both eyes, nose tip, both mouth corners, the one on the left of
the picture first. All are in pixels of the upright original image.
"""

import base64
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from schemas.ids import Uuid

Box = Annotated[list[int], Field(min_length=4, max_length=4)]
Landmarks = Annotated[list[tuple[float, float]], Field(min_length=5, max_length=5)]


class Detection(BaseModel):
    """A face that a detector found. `score` is the calibrated probability that this is a face, `detection_score` the
    detector's own.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    face_id: Uuid
    box: Box
    landmarks: Landmarks
    score: float
    detection_score: float

    @property
    def side(self) -> float:
        """The face's size in pixels: the square root of its box's area."""
        return float(np.sqrt(max(0, self.box[2] - self.box[0]) * max(0, self.box[3] - self.box[1])))


class Crop(BaseModel):
    """The stored picture of a learned face: 240 × 240 pixels, landmarks in its own pixels."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    object_key: str
    landmarks: Landmarks


class DetectedFace(Detection):
    """A face between the detect and the embed stage.

    A learned face has `crop` and `source`. `cell` is the index of a probe's crop in the image's sheet of crops, None
    for a face that is too small to be embedded. `seen` has the landmarks that other detectors found for a learned face,
    by detector, in pixels of the sheet's pictures and in their order.
    """

    crop: Crop | None = None
    source: str | None = None
    cell: int | None = None
    seen: dict[str, Landmarks] = {}


class EmbeddedFace(Detection):
    """A face with its vectors by generation, base64 of little-endian float32; none for a face that is too small to be
    embedded.
    """

    vectors: dict[str, str] = {}
    crop: Crop | None = None
    source: str | None = None

    def vector(self, generation: str) -> NDArray[np.float32]:
        """(D,) float32."""
        return decode_vector(self.vectors[generation])


def decode_vector(encoded: str) -> NDArray[np.float32]:
    """(D,). Raises ValueError."""
    return np.frombuffer(base64.b64decode(encoded), "<f4")


def is_vector(encoded: str, dimension: int) -> bool:
    """Whether it is a vector of so many finite numbers, with a length."""
    try:
        vector = decode_vector(encoded)
    except ValueError:  # not base64, or not a whole number of floats
        return False
    with np.errstate(all="ignore"):
        length = np.linalg.norm(vector)
    return vector.shape == (dimension,) and bool(0 < length < np.inf)


def encode_vector(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()
