"""Reading `images.received`: a record is an ImageReceived as plain JSON, or a CloudEvent 1.0 that carries one, in the
binary or the structured mode of CloudEvents' Kafka binding.

The type gives the purpose: `facestream.image.learn`, `.recognize` or `.detect`. The data are the other members of
ImageReceived. If they have no image_id, it is the event's id or is derived from the event's source and id, so that an
event that is delivered twice is one image.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import UnreadableRecord
from schemas.event import schema_mismatch
from schemas.ids import image_id_of_event, is_image_id
from schemas.records import ImageReceived

TYPES = {f"facestream.image.{purpose}": purpose for purpose in ("learn", "recognize", "detect")}
STRUCTURED = "application/cloudevents+json"
HEADER = "ce_"

Text = Annotated[str, Field(min_length=1)]


class CloudEvent(BaseModel):
    """The attributes that are used here, and the data; other attributes are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: str = Field(pattern=r"^1\.\d+$")
    type: str = Field(json_schema_extra={"enum": list(TYPES)})
    source: Text
    id: Text
    datacontenttype: str = "application/json"
    data: dict[str, Any] = Field(description="an ImageReceived, where purpose and image_id may be missing")


def decode_image_received(value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> ImageReceived:
    """Decodes a record. Raises UnreadableRecord, which names the member that does not fit."""
    if headers:
        named = {name.lower(): text for name, text in headers}
        if f"{HEADER}specversion" in named:
            return _unwrap(_binary(value, named))
        if named.get("content-type", b"").lower().startswith(STRUCTURED.encode()):
            return _unwrap(_object(value))
    try:
        return ImageReceived.decode(value)
    except UnreadableRecord:
        if value is not None and b'"specversion"' in value:  # some clients cannot set headers
            return _unwrap(_object(value))
        raise


def _binary(value: bytes | None, headers: Mapping[str, bytes]) -> dict[str, Any]:
    """Converts a record from the binary to the structured mode."""
    attributes: dict[str, Any] = {
        name.removeprefix(HEADER): text.decode(errors="replace")
        for name, text in headers.items()
        if name.startswith(HEADER)
    }
    if "content-type" in headers:
        attributes["datacontenttype"] = headers["content-type"].decode(errors="replace")
    return attributes | {"data": _object(value)}


def _unwrap(attributes: dict[str, Any]) -> ImageReceived:
    try:
        event = CloudEvent.model_validate(attributes)
    except ValidationError as error:
        raise schema_mismatch(error, "CloudEvent") from None
    media_type = event.datacontenttype.partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnreadableRecord("not a CloudEvent: datacontenttype: the data must be JSON")
    if event.type not in TYPES:
        raise UnreadableRecord(f"not a CloudEvent: type: must be one of {', '.join(TYPES)}")
    purpose = TYPES[event.type]
    if event.data.get("purpose", purpose) != purpose:
        raise UnreadableRecord("not a CloudEvent: data.purpose: differs from the type")
    image_id = event.id if is_image_id(event.id) else image_id_of_event(event.source, event.id)
    try:
        return ImageReceived.model_validate({"image_id": image_id} | event.data | {"purpose": purpose})
    except ValidationError as error:
        raise schema_mismatch(error, "CloudEvent: data") from None


def _object(value: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(value or b"")
    except (ValueError, RecursionError) as error:
        raise UnreadableRecord(f"not a CloudEvent: no JSON: {type(error).__name__}") from None
    if not isinstance(found, dict):
        raise UnreadableRecord("not a CloudEvent: no JSON object")
    return found
