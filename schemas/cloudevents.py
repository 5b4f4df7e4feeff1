"""Reading `images.received`: a record is an ImageReceived as plain JSON, or a CloudEvent 1.0 that carries one, in the
binary or the structured mode of CloudEvents' Kafka binding, the latter in the JSON format. A header of a retried event
says where and when it first came.

The type gives the purpose: `facestream.image.learn`, `.recognize` or `.detect`. The data are the other members of
ImageReceived. If they have no image_id, it is the event's id or is derived from the event's source and id, so that an
event that is delivered twice is one image.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from schemas.dead_letters import Retried
from schemas.errors import UnreadableRecord
from schemas.event import Header, schema_mismatch
from schemas.ids import image_id_of_event, is_image_id
from schemas.records import ImageReceived, parsed, with_image

TYPES = {f"facestream.image.{purpose}": purpose for purpose in ("learn", "recognize", "detect")}
EVENT_FORMATS = "application/cloudevents"  # the media type of each format begins with it
STRUCTURED = f"{EVENT_FORMATS}+json"
BATCH = f"{EVENT_FORMATS}-batch"
HEADER = "ce_"
CONTENT_TYPE = "content-type"
ATTRIBUTES = ("specversion", "type", "source", "id")  # those that are used, without datacontenttype
JSON_TYPE = r"^[^;]*[/+][jJ][sS][oO][nN]\s*(;|$)"
ONE_EACH = "send each event as a record of its own"
IMAGE = "an ImageReceived, where purpose and image_id may be missing or null"


def _is_json(media_type: str) -> str:
    if not re.match(JSON_TYPE, media_type):
        raise ValueError("the data must be JSON, for example application/json")
    return media_type


Checked = TypeVar("Checked", bound=BaseModel)
Text = Annotated[str, Field(min_length=1)]
JsonType = Annotated[str, AfterValidator(_is_json), Field(json_schema_extra={"pattern": JSON_TYPE})]


class CloudEvent(BaseModel):
    """The attributes that are used here, and the data; other attributes are ignored."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        json_schema_extra={
            "if": {"properties": {"data_base64": {"type": "string"}}, "required": ["data_base64"]},
            "then": {"properties": {"data": {"type": "null"}}},
            "else": {"properties": {"data": {"type": ["object", "string"]}}, "required": ["data"]},
        },
    )

    specversion: str = Field(pattern=r"^1\.[0-9]+$")
    type: str = Field(json_schema_extra={"enum": list(TYPES)})
    source: Text
    id: Text
    datacontenttype: JsonType | None = None
    # Go's SDK writes the data as a string if datacontenttype ends in +json.
    data: dict[str, Any] | str | None = Field(None, description=f"{IMAGE}; as an object, or as JSON in a string")
    data_base64: Base64Bytes | None = Field(None, description=f"{IMAGE}; as JSON in Base64, in place of data")

    @model_validator(mode="after")
    def _has_data_once(self) -> Self:
        if (self.data is None) == (self.data_base64 is None):
            raise ValueError("it must have either data or data_base64")
        return self

    @property
    def image_id(self) -> str:
        """The id of the image, if the data have none."""
        return self.id if is_image_id(self.id) else image_id_of_event(self.source, self.id)

    @property
    def image(self) -> dict[str, Any]:
        """The data. Raises UnreadableRecord."""
        if isinstance(self.data, dict):
            return self.data
        return _object(self.data if self.data_base64 is None else self.data_base64)


def decode_image_received(value: bytes | None, headers: Sequence[Header] = ()) -> ImageReceived:
    """Decodes a record. A header with an empty value counts as missing. Raises UnreadableRecord, which names the member
    that does not fit; it is an InvalidEvent if the record says which image it is about.
    """
    event = _decode(value, {name.lower(): text or b"" for name, text in headers})
    retried = Retried.of(headers)
    return event if retried is None else event.model_copy(update=dict(retried))


def _decode(value: bytes | None, named: Mapping[str, bytes]) -> ImageReceived:
    content_type = named.get(CONTENT_TYPE, b"").decode(errors="replace").strip().lower()
    if content_type.startswith(EVENT_FORMATS):
        return _unwrap(_structured(value, content_type))
    if f"{HEADER}specversion" in named:
        return _unwrap(_binary(value, named, content_type))
    try:
        return ImageReceived.decode(value)
    except UnreadableRecord:
        if value is not None and b'"specversion"' in value:  # some clients cannot set headers
            return _unwrap(_structured_object(value))
        raise


def _structured(value: bytes | None, content_type: str) -> dict[str, Any]:
    media_type = content_type.partition(";")[0].rstrip()
    if media_type.startswith(BATCH):
        raise UnreadableRecord(f"not a CloudEvent: content-type: a batch: {ONE_EACH}")
    if media_type != STRUCTURED:
        raise UnreadableRecord(f"not a CloudEvent: content-type: the format must be {STRUCTURED}")
    return _structured_object(value)


def _binary(value: bytes | None, headers: Mapping[str, bytes], content_type: str) -> dict[str, Any]:
    """Converts a record from the binary to the structured mode. headers: their names are in lower case."""
    attributes: dict[str, Any] = {"datacontenttype": content_type or None}
    for name in ATTRIBUTES:
        if text := headers.get(f"{HEADER}{name}"):
            try:
                attributes[name] = text.decode()
            except UnicodeDecodeError:
                raise UnreadableRecord(f"not a CloudEvent: {name}: the header is not UTF-8") from None
    try:
        return attributes | {"data": _object(value)}
    except UnreadableRecord as error:
        raise with_image(error, _named_image(attributes)) from None


def _unwrap(attributes: dict[str, Any]) -> ImageReceived:
    image = _named_image(attributes)
    try:
        event = _checked(CloudEvent, attributes, "CloudEvent")
        if event.type not in TYPES:
            raise UnreadableRecord(f"not a CloudEvent: type: must be one of {', '.join(TYPES)}")
        purpose = TYPES[event.type]
        image = {"image_id": event.image_id, "purpose": purpose}
        image |= {name: it for name, it in event.image.items() if name not in image or it is not None}
        if image["purpose"] != purpose:
            raise UnreadableRecord("not a CloudEvent: data.purpose: differs from the type")
        return _checked(ImageReceived, image, "CloudEvent: data")
    except UnreadableRecord as error:
        raise with_image(error, image) from None


def _named_image(attributes: Any) -> dict[str, Any]:
    """The members of the image in attributes that may be invalid: the data, with the event's id if they have none."""
    if not isinstance(attributes, dict):
        return {}
    data = attributes.get("data")
    image = data if isinstance(data, dict) else {}
    return image if image.get("image_id") is not None else image | {"image_id": attributes.get("id")}


def _checked(model: type[Checked], members: dict[str, Any], what: str) -> Checked:
    try:
        return model.model_validate(members)
    except ValidationError as error:
        raise schema_mismatch(error, what) from None


def _structured_object(value: bytes | None) -> dict[str, Any]:
    try:
        return _object(value)
    except UnreadableRecord as error:
        raise with_image(error, _named_image(parsed(value))) from None


def _object(value: bytes | str | None) -> dict[str, Any]:
    try:  # as pydantic reads a plain event: json.loads would let half of a surrogate pair pass
        found = from_json(value or b"")
    except ValueError as error:
        raise UnreadableRecord(f"not a CloudEvent: no JSON: {error}") from None
    if isinstance(found, list):
        raise UnreadableRecord(f"not a CloudEvent: no JSON object but a list: {ONE_EACH}")
    if not isinstance(found, dict):
        raise UnreadableRecord("not a CloudEvent: no JSON object")
    return found
