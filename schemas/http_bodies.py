"""The bodies of HTTP responses that are not answers to images: requests still being worked on, listings, health."""

from typing import Literal

from pydantic import Field

from schemas.answers import AnswerPart
from schemas.ids import Uuid

DEFAULT_PAGE, LARGEST_PAGE = 100, 1_000  # people


class WorkingBody(AnswerPart):
    """The image is being worked on."""

    status: Literal["working"]
    image_id: Uuid
    location: str = Field(description="where the answer will be")


class ErasingBody(AnswerPart):
    """The erase command is being worked on."""

    status: Literal["working"]
    detail: str


class DirectoriesBody(AnswerPart):
    directories: list[str]


class PersonEntry(AnswerPart):
    id: str
    faces: int


class PersonsBody(AnswerPart):
    """A page of the people of a directory."""

    directory: str
    persons: list[PersonEntry]
    next: str | None = Field(None, description="`after` of the next page, absent on the last one")


class FaceEntry(AnswerPart):
    face_id: Uuid
    image_id: Uuid
    url: str


class FacesBody(AnswerPart):
    """The learned faces of a person."""

    directory: str
    person: str
    faces: list[FaceEntry]


class HealthBody(AnswerPart):
    status: Literal["OK"]


class ReadinessBody(AnswerPart):
    status: Literal["OK", "not ready"]
    checks: dict[str, str] = Field(description="OK, or what is wrong, by name")
    degraded: dict[str, str] | None = Field(
        None, description="The topics with partitions in which images are not finished, and why; only the HTTP service"
    )
