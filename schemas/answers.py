"""The bodies of answers. An answer travels in the topic `results`, is stored for a day, and goes out over HTTP: it is
built once as one of these types and decoded once into it.

Members that this release does not know are kept at every level, so that an older ingest passes on everything that a
newer sink writes. Only members that were set are encoded: a null member was set to None.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.errors import FacestreamError
from schemas.faces import Box, Detection
from schemas.ids import Uuid

Score = Annotated[float, Field(description="the calibrated probability that this is a face")]
DetectionScore = Annotated[float, Field(description="the detector's own score")]
LOWEST_FAILURE = 400  # HTTP status


class AnswerPart(BaseModel):
    """Base of a body and of the objects in it."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    def members(self) -> dict[str, Any]:
        """The JSON object: the members that were set."""
        return self.model_dump(exclude_unset=True)


class Models(AnswerPart):
    """The models that took part in an answer."""

    detector: str
    embedder: str | None = None
    generation: str | None = None


class LearnedPerson(AnswerPart):
    """The face that was learned."""

    id: str
    box: Box
    score: Score
    detection_score: DetectionScore
    face_id: Uuid


class IgnoredFace(AnswerPart):
    """A face in the background of a portrait."""

    box: Box
    score: Score
    detection_score: DetectionScore


class CandidatePerson(AnswerPart):
    """One of the best-matching people, with the learned face that matched best."""

    id: str
    similarity: float
    probability: float | None = Field(
        description="calibrated, that this is the person's face; null without calibration"
    )
    face_id: Uuid


class RecognizedPerson(AnswerPart):
    """A face of a photo, and the person to whom it belongs. `similarity` and `probability` are those of the best
    candidate.
    """

    id: str | None = Field(description="the person, or null")
    box: Box
    score: Score
    detection_score: DetectionScore
    probability: float | None
    similarity: float | None
    threshold: float = Field(description="the similarity from which a face gets a name")
    candidates: list[CandidatePerson] = Field(description="the best-matching people, one entry each")
    face_id: Uuid
    also_matched: Uuid | None = Field(
        None, description="the face_id of another face of this photo that matched the same person better"
    )
    reason: str | None = Field(
        None,
        description="why there is no name",
        examples=["below-threshold", "empty-directory", "too-small", "erased"],
    )


class DetectedPerson(AnswerPart, Detection):
    """A face of a photo."""


class ImageBody(AnswerPart):
    """What the answers to images have in common. `image_id` is the image under which the picture is stored."""

    status: Literal["OK"]
    image_id: Uuid
    url: str
    filename: str
    directory: str | None


class LearnedBody(ImageBody):
    """The answer to a learn."""

    persons: list[LearnedPerson]
    ignored: list[IgnoredFace]
    models: Models


class RecognizedBody(ImageBody):
    """The answer to a recognize: all faces, best score first."""

    persons: list[RecognizedPerson]
    models: Models


class DetectedBody(ImageBody):
    """The answer to a detect: all faces, best score first."""

    persons: list[DetectedPerson]
    models: Models


class ErasedCounts(AnswerPart):
    faces: int
    images: int


class ErasedBody(AnswerPart):
    """The answer to an erase command. `person` is null where a face, an image or a directory was erased."""

    status: Literal["OK"]
    directory: str | None
    person: str | None
    erased: ErasedCounts


class RefusedFace(AnswerPart):
    """A face that the caller may choose to learn."""

    box: Box
    score: Score


class Problem(AnswerPart):
    """The body of an error: problem+json (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str = Field(description="a stable code for clients to decide by; see schemas/errors.py")
    detail: str = Field(description="what was wrong, and what to do")
    field: str | None = Field(None, description="the field of the request that is wrong")
    faces: list[RefusedFace] | None = Field(None, description="the faces that were found")
    box: Box | None = Field(None, description="the face that is too small")
    width: int | None = None
    height: int | None = None
    limit: int | None = Field(None, description="the largest accepted size, in bytes or pixels")
    retry_after: int | None = Field(None, description="seconds")
    image_id: str | None = None


Body = LearnedBody | RecognizedBody | DetectedBody | ErasedBody | Problem

_GOOD: dict[str, type[Body]] = {
    "learn": LearnedBody,
    "recognize": RecognizedBody,
    "detect": DetectedBody,
    "erase": ErasedBody,
}


def body_type(purpose: str | None, status: int) -> type[Body]:
    """The type of the body for a purpose and an HTTP status. Raises ValueError for a success without a purpose."""
    if status >= LOWEST_FAILURE:
        return Problem
    if purpose is None:
        raise ValueError("only the answer to an invalid event has no purpose")
    return _GOOD[purpose]


def problem(error: FacestreamError, **members: Any) -> Problem:
    """The body of an error."""
    return Problem.model_validate(
        {
            "type": "about:blank",
            "title": error.code.replace("_", " "),
            "status": error.status,
            "code": error.code,
            "detail": error.message,
        }
        | error.details
        | members
    )
