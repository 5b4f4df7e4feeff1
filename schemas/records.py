"""The records of every topic, as versioned pydantic models. They travel as JSON; their JSON Schema is generated from
them.
"""

import json
from contextlib import suppress
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from schemas.answers import Body, Models, body_type
from schemas.bucket_events import BucketNotified
from schemas.erasure_records import Erasure, LogIdentity
from schemas.errors import InvalidEvent, UnreadableRecord
from schemas.event import EventRecord, Milliseconds, schema_mismatch
from schemas.faces import Box, Crop, DetectedFace, Detection, EmbeddedFace
from schemas.generation_records import ActiveGeneration, Generation
from schemas.ids import Uuid, original_key
from schemas.json_types import ONE_LINE
from schemas.names import Name
from schemas.options import MOST_FACES, Options
from schemas.origins import Cut, Origin

Purpose = Literal["learn", "recognize", "detect"]
OPTIONS: dict[Purpose, frozenset[str]] = {
    "learn": frozenset({"face", "force", "detail"}),
    "recognize": frozenset({"top", "limit", "min_score", "min_face", "strangers", "detail", "store"}),
    "detect": frozenset({"limit", "min_score", "min_face", "detail", "store"}),
}


class Source(BaseModel):
    """A reference to an object on the server of our object store that another system has put there; never a URL."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bucket: str = Field(min_length=1, max_length=255, description="our own, or one that FACESTREAM_SOURCES names")
    key: str = Field(min_length=1, max_length=1024, description="in our bucket incoming/{directory}/…")
    etag: str | None = Field(
        None, max_length=255, description="as the store returned it; an object with another etag counts as missing"
    )


def _never(**members: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema that refuses an object if its members all fit these schemas; a missing member fits any. Code
    generators make one class for an object with such conditions, but several, or none, if it has an `anyOf` or an `if`.
    """
    return {"not": {"properties": members}}


NULL, EMPTY = {"type": "null"}, {"const": ""}


class ImageReceived(EventRecord):
    """`images.received`: an image to process. Its original is in the object store, or is copied there from `source`."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                _never(purpose={"enum": ["learn", "recognize"]}, directory=NULL),
                _never(purpose={"const": "learn"}, person=NULL),
                _never(source=NULL, media_type=EMPTY),
                _never(source=NULL, sha256=EMPTY),
            ]
        }
    )

    image_id: Uuid
    purpose: Purpose
    directory: Name | None = None
    person: Name | None = None
    source: Source | None = Field(None, description="where to copy the original from")
    media_type: str = Field("", description="determined from the bytes if there is a source")
    sha256: str = Field(
        "",
        pattern=r"^([0-9a-f]{64})?$",
        description="of the original's bytes; computed if there is a source",
        json_schema_extra=ONE_LINE,
    )
    request_digest: str | None = Field(
        None, description="distinguishes a repeated request from another one with the same Idempotency-Key"
    )
    filename: str = ""
    reply_to: str | None = Field(None, description="the ingest replica that waits; its results go to one partition")
    received_at: Milliseconds | None = Field(None, description="when it was first received; only in a retried event")
    origin: Origin | None = Field(None, description="the first record of the image; set by facestream itself")
    options: Options = Options()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.source is None and not (self.media_type and self.sha256):
            raise ValueError("media_type and sha256 are missing: only an event with a source may omit them")
        if self.purpose != "detect" and self.directory is None:
            raise ValueError(f"to {self.purpose} takes a directory")
        if self.purpose == "learn" and self.person is None:
            raise ValueError("to learn takes a person")
        return self

    @classmethod
    def decode(cls, value: bytes | None) -> Self:
        """As every record. Raises InvalidEvent if the event says which image it is about."""
        try:
            return super().decode(value)
        except UnreadableRecord as error:
            raise with_image(error, parsed(value)) from None

    @property
    def object_key(self) -> str:
        """The key of the original."""
        return original_key(self.image_id, self.purpose)

    def first_received_at(self, appended_at: int) -> int:
        """When the image was first received, in ms. appended_at: the append time of the record."""
        return appended_at if self.received_at is None else min(appended_at, self.received_at)

    def with_origin(self, here: Origin) -> Self:
        """The event with its origin, which erasures are compared with. here: the position of its record. Events that
        are sent again carry their origin in another partition; in the same one, the earlier of both counts.
        """
        given = self.origin
        if given is not None and (given.topic != here.topic or given.partition != here.partition):
            return self
        return self.model_copy(update={"origin": min(given or here, here, key=lambda it: it.offset)})


_WHOM_TO_ANSWER: dict[str, TypeAdapter[Any]] = {
    "image_id": TypeAdapter(Uuid),
    "purpose": TypeAdapter(Purpose),
    "directory": TypeAdapter(Name),
    "reply_to": TypeAdapter(str),
}


def with_image(error: UnreadableRecord, event: object) -> UnreadableRecord:
    """The error of an event as an InvalidEvent, if the event says which image it is about. event: the parsed JSON of an
    ImageReceived.
    """
    found: dict[str, Any] = {}
    for name, kind in _WHOM_TO_ANSWER.items():
        with suppress(ValidationError):
            found[name] = kind.validate_python(event.get(name) if isinstance(event, dict) else None)
    return InvalidEvent(error.message, found, **error.details) if "image_id" in found else error


def parsed(value: bytes | None) -> object:
    """The JSON value, or None if it is not JSON. Unlike pydantic, it also parses texts that are not Unicode."""
    try:
        return json.loads(value or b"")
    except (ValueError, RecursionError):
        return None


class FacesDetected(EventRecord):
    """`faces.detected`: the faces of an image before they are embedded. It is used only if detect and embed run as
    separate roles. `sheet_key` names the object with the crops of a probe's faces, or of a learned face as found by
    other detectors. `models`: the models of the active generation. `received_at`: when the image was received.
    """

    received: ImageReceived
    received_at: Milliseconds
    faces: list[DetectedFace]
    ignored: list[Detection] = Field([])
    models: Models
    sheet_key: str | None = None


class FacesEmbedded(EventRecord):
    """`faces.embedded`: the faces of an image with their vectors. `received_at`: when the image was received."""

    kind: Literal["faces"] = "faces"
    received: ImageReceived
    received_at: Milliseconds
    faces: list[EmbeddedFace]
    ignored: list[Detection] = Field([])
    models: Models


class EraseRequested(EventRecord):
    """`faces.embedded`: the command to erase a person, a face (with its person), an image or, with none of them, a
    directory. It is handled in the order of the directory's partition. `image_id` is the id of the request, under which
    it is answered. Images that came before `cut` are erased, wherever they are; it is None in a record of an older
    version.
    """

    kind: Literal["erase"] = "erase"
    purpose: Literal["erase"] = "erase"
    image_id: Uuid
    directory: Name
    person: Name | None = None
    face_id: Uuid | None = None
    erased_image_id: Uuid | None = None
    cut: Cut | None = None
    reply_to: str | None = None


class ReembeddedFace(BaseModel):
    """A learned face and its vector in another generation, base64 of little-endian float32. `learned_at` is as in
    FaceLearned.
    """

    model_config = ConfigDict(frozen=True)

    person: Name
    face_id: Uuid
    image_id: Uuid
    source: str
    learned_at: Milliseconds
    vector: str


class FacesReembedded(EventRecord):
    """`faces.embedded`: learned faces that a replay has embedded for another generation."""

    kind: Literal["reembedded"] = "reembedded"
    directory: Name
    generation: str
    faces: list[ReembeddedFace] = Field(max_length=MOST_FACES)


Embedded = Annotated[FacesEmbedded | EraseRequested | FacesReembedded, Field(discriminator="kind")]


class FaceLearned(EventRecord):
    """`faces.learned`: the gallery's changelog, which a replay reads. It has neither pixels nor vectors.

    `learned_at` is the timestamp of the face's vectors, and `generations` are the generations they belong to. `box` is
    where `detector` found the face in the original.
    """

    directory: Name
    person: Name
    face_id: Uuid
    image_id: Uuid
    source: str
    crop: Crop
    detector: str
    box: Box | None = None
    learned_at: Milliseconds
    generations: list[str]


class Answer(EventRecord):
    """`results`: the answer to an image or an erase command: an HTTP status and the JSON body, whose type depends on
    `purpose` and `status`. `purpose` is None if an event had none that fits. `offset` is the offset of the answered
    record in `faces.embedded`: an erase command with a later offset redacts the answer. If `store` is false, the
    picture is deleted.
    """

    image_id: Uuid
    purpose: Purpose | Literal["erase"] | None = None
    directory: Name | None = None
    request_digest: str | None = None
    status: int
    body: Body
    offset: int | None = None
    store: bool = True

    @field_validator("body", mode="plain", json_schema_input_type=Body)
    @classmethod
    def _of_purpose_and_status(cls, body: Any, info: ValidationInfo) -> Body:
        if "purpose" not in info.data or "status" not in info.data:
            raise ValueError("its type follows from purpose and status")
        expected = body_type(info.data["purpose"], info.data["status"])
        try:
            return expected.model_validate(body)
        except ValidationError as error:
            raise schema_mismatch(error, f"{cls.__name__}: body") from None

    @field_serializer("body")
    def _members(self, body: Body) -> dict[str, Any]:
        return body.members()


class DeadLetter(EventRecord):
    """`dead-letters`: a letter as version 0.1 has written it. Letters now are the record that failed, with headers; see
    schemas/dead_letters.py. `event` is None if the record was unreadable or an erase command. `topic`, `partition` and
    `offset` are those of the record.
    """

    event: ImageReceived | None = None
    topic: str
    partition: int
    offset: int
    code: str
    reason: str
    attempts: int


class DeadLetterClosed(EventRecord):
    """`dead-letters`: a dead letter was retried or dropped. The record is in the partition of the letter. `letter` is
    the offset of the letter.
    """

    closed: Literal["retried", "dropped"]
    letter: int


RECORDS: dict[str, tuple[type[EventRecord], ...]] = {
    "bucket.events": (BucketNotified,),
    "images.received": (ImageReceived,),
    "images.received.bulk": (ImageReceived,),
    "faces.detected": (FacesDetected,),
    "faces.embedded": (FacesEmbedded, EraseRequested, FacesReembedded),
    "faces.learned": (FaceLearned,),
    "results": (Answer,),
    "models": (Generation, ActiveGeneration),
    "erasures": (Erasure, LogIdentity),
    "dead-letters": (ImageReceived, DeadLetterClosed, DeadLetter),
}


_EMBEDDED: TypeAdapter[FacesEmbedded | EraseRequested | FacesReembedded] = TypeAdapter(Embedded)


def decode_embedded(value: bytes | None) -> FacesEmbedded | EraseRequested | FacesReembedded:
    """Parses a record of `faces.embedded` by its kind. Raises UnreadableRecord, which names the wrong member."""
    if value is None:
        raise UnreadableRecord("a tombstone is not a valid record of faces.embedded")
    try:
        return _EMBEDDED.validate_json(value)
    except ValidationError as error:
        raise schema_mismatch(error, "record of faces.embedded") from None


def decode_dead_letter(value: bytes | None) -> DeadLetter | DeadLetterClosed:
    """Parses a record of `dead-letters` without headers. Raises UnreadableRecord, which names the wrong member."""
    try:
        return DeadLetterClosed.decode(value)
    except UnreadableRecord:
        return DeadLetter.decode(value)
