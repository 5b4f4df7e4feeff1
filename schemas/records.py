"""The records of every topic, as versioned pydantic models. They travel as JSON; their JSON Schema is generated from them.

Boxes are [x1, y1, x2, y2] and landmarks five (x, y): both eyes, nose tip, both mouth corners, left first as the picture shows
them, in pixels of the upright original image.
"""

import base64
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import FacestreamError, UnreadableRecord
from schemas.names import Name

Purpose = Literal["learn", "recognize", "detect"]
Detail = Literal["normal", "high"]
Box = Annotated[list[int], Field(min_length=4, max_length=4)]
Landmarks = Annotated[list[tuple[float, float]], Field(min_length=5, max_length=5)]
Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]

MOST_FACES = 1_000
MOST_CANDIDATES = 10


class EventRecord(BaseModel):
    """Base of what a topic carries. A record that says another version is refused, one with further members is not."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[1] = 1

    @classmethod
    def decode(cls, value: bytes | None) -> Self:
        """Raises UnreadableRecord, saying which member does not fit."""
        if value is None:
            raise UnreadableRecord(f"a tombstone is no {cls.__name__}")
        try:
            return cls.model_validate_json(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the record"
            raise UnreadableRecord(f"not a {cls.__name__}: {where}: {first['msg']}") from None

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


class Options(BaseModel):
    """What the caller wishes of one image. `face` is "largest" or "x,y", a point inside the face that is meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top: int = Field(3, ge=1, le=MOST_CANDIDATES, description="how many candidates a face gets")
    limit: int = Field(MOST_FACES, ge=1, le=MOST_FACES, description="how many faces an answer has at most, the best scores first")
    min_score: float = Field(0.0, ge=0, le=1, description="faces with a lower score are left out")
    min_face: float = Field(0.0, ge=0, description="faces smaller than this, in pixels a side, are left out")
    strangers: float = Field(0.01, gt=0, le=1, description="share of strangers that may get a name; 1 always names the nearest")
    detail: Detail = Field("normal", description="'high' looks at native pixels in tiles")
    face: str | None = Field(None, pattern=r"^(largest|\d{1,6}(\.\d+)?,\d{1,6}(\.\d+)?)$", description="which face to learn")
    force: bool = Field(False, description="learn a face below 40 pixels a side all the same")


class ImageReceived(EventRecord):
    """`images.received`: one image to process. `object_key` is the original's key in the object store."""

    image_id: Uuid
    purpose: Purpose
    directory: Name | None = None
    person: Name | None = None
    object_key: str = Field(min_length=1, max_length=300)
    media_type: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the original's bytes")
    request_digest: str | None = Field(None, description="tells the same request from another under the same Idempotency-Key")
    filename: str = ""
    reply_to: str | None = Field(None, description="the ingest replica that waits; its results go to one partition")
    options: Options = Options()


class Models(BaseModel):
    """The models that took part in an answer."""

    model_config = ConfigDict(frozen=True)

    detector: str
    embedder: str | None = None
    generation: str | None = None


class Detection(BaseModel):
    """A face as it was found. `score` is the calibrated probability that this is a face, `detection_score` the detector's own."""

    model_config = ConfigDict(frozen=True)

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
    """The kept picture of a learned face: 240 × 240 pixels, landmarks in its own pixels."""

    model_config = ConfigDict(frozen=True)

    object_key: str
    landmarks: Landmarks


class DetectedFace(Detection):
    """A face as the detect stage hands it on. `crop` and `source` of a learned face, which has both; `cell` says which picture of
    the image's sheet of crops is a probe's, None where the face is too small to tell people apart.
    """

    crop: Crop | None = None
    source: str | None = None
    cell: int | None = None


class EmbeddedFace(Detection):
    """A face with its vectors by generation, base64 of little-endian float32; none where the face is too small to tell people
    apart.
    """

    vectors: dict[str, str] = {}
    crop: Crop | None = None
    source: str | None = None

    def vector(self, generation: str) -> NDArray[np.float32]:
        """(D,) float32."""
        return np.frombuffer(base64.b64decode(self.vectors[generation]), "<f4")


def encoded_vector(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()


class FacesDetected(EventRecord):
    """`faces.detected`: the faces of an image, before they are embedded; only where detect and embed run apart. `sheet_key` names
    the object with the crops of a probe's faces.
    """

    received: ImageReceived
    faces: list[DetectedFace]
    ignored: list[Detection] = []
    detector: str
    sheet_key: str | None = None


class FacesEmbedded(EventRecord):
    """`faces.embedded`: the faces of an image with their vectors. `generation` is the one that probes are answered in."""

    received: ImageReceived
    faces: list[EmbeddedFace]
    ignored: list[Detection] = []
    models: Models


class FaceLearned(EventRecord):
    """`faces.learned`: the gallery's changelog, which a replay reads; neither pixels nor vectors."""

    directory: Name
    person: Name
    face_id: Uuid
    image_id: Uuid
    source: str
    crop: Crop
    detector: str


class Answer(EventRecord):
    """`results`: what the caller is answered, an HTTP status and the JSON body."""

    image_id: Uuid
    purpose: Purpose
    directory: Name | None = None
    object_key: str | None = None
    request_digest: str | None = None
    status: int
    body: dict[str, Any]


class Generation(EventRecord):
    """`models`: a generation and its state."""

    name: str
    detector: str
    embedder: str
    state: Literal["candidate", "active", "retired"]


class Erasure(EventRecord):
    """`erasures`: what was erased; the record's append time counts."""

    directory: Name
    person: Name | None = None
    image_id: Uuid | None = None
    face_id: Uuid | None = None


class DeadLetter(EventRecord):
    """`dead-letters`: the event that could not be processed, never vectors. `event` is None where the record itself was
    unreadable.
    """

    event: ImageReceived | None = None
    topic: str
    partition: int
    offset: int
    code: str
    reason: str
    attempts: int


def problem(error: FacestreamError, **members: Any) -> dict[str, Any]:
    """The problem+json body (RFC 9457) of an error."""
    title = error.code.replace("_", " ")
    return (
        {"type": "about:blank", "title": title, "status": error.status, "code": error.code, "detail": error.message}
        | error.details
        | members
    )


RECORDS: dict[str, type[EventRecord]] = {
    "images.received": ImageReceived,
    "images.received.bulk": ImageReceived,
    "faces.detected": FacesDetected,
    "faces.embedded": FacesEmbedded,
    "faces.learned": FaceLearned,
    "results": Answer,
    "models": Generation,
    "erasures": Erasure,
    "dead-letters": DeadLetter,
}
