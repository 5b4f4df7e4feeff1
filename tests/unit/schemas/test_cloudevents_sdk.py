"""What the official Python SDK of CloudEvents writes for Kafka becomes the same ImageReceived in every mode, with every
kind of data. Its API of version 1, which is still there, writes some of it differently.

`make interop` does the same with the SDKs of Go, Java and JavaScript, through Kafka.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1 import kafka as kafka_v1
from cloudevents.v1.http import CloudEvent as CloudEventV1

from schemas.cloudevents import decode_image_received
from schemas.errors import UnreadableRecord
from schemas.ids import image_id_of_event
from schemas.records import ImageReceived

DATA = {
    "directory": "acme",
    "person": "Zoë Łęcka",
    "source": {"bucket": "photos", "key": "incoming/acme/ann.jpg"},
    "options": {"face": "10,20.5", "force": True},
}
ATTRIBUTES = {"type": "facestream.image.learn", "source": "https://cms.example/portraits?of=Zoë", "id": "bild 42 %2F"}
EXTENSIONS = {
    "subject": "für Zoë",
    "partitionkey": "acme",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "sampledrate": 5,
    "urgent": True,
}
EXPECTED = ImageReceived.model_validate(
    DATA | {"image_id": image_id_of_event(ATTRIBUTES["source"], ATTRIBUTES["id"]), "purpose": "learn"}
)
Message = kafka.KafkaMessage | kafka_v1.KafkaMessage
Attributes = Mapping[str, Any]


def binary(attributes: Attributes, data: Any) -> Message:
    return kafka.to_binary(CloudEvent(dict(attributes), data), JSONFormat())


def structured(attributes: Attributes, data: Any) -> Message:
    return kafka.to_structured(CloudEvent(dict(attributes), data), JSONFormat())


def binary_v1(attributes: Attributes, data: Any) -> Message:
    """It fails without datacontenttype, and with an attribute that is no text."""
    texts: dict[str, Any] = {"datacontenttype": None} | {name: str(value) for name, value in attributes.items()}
    marshal = (lambda it: it) if isinstance(data, bytes | str) else json.dumps
    return kafka_v1.to_binary(CloudEventV1(texts, data), data_marshaller=marshal)


def structured_v1(attributes: Attributes, data: Any) -> Message:
    """The content type of the data becomes that of the record, in place of application/cloudevents+json."""
    return kafka_v1.to_structured(CloudEventV1(attributes, data))


def decode(message: Message) -> ImageReceived:
    value = message.value.encode() if isinstance(message.value, str) else message.value
    return decode_image_received(value, list(message.headers.items()))


@pytest.mark.parametrize("write", [binary, structured, binary_v1, structured_v1])
@pytest.mark.parametrize("data", [DATA, json.dumps(DATA).encode(), json.dumps(DATA)], ids=["object", "bytes", "text"])
@pytest.mark.parametrize(
    "media_type",
    [None, "application/json", "application/json; charset=utf-8", "text/json", "application/vnd.acme.image+json"],
)
@pytest.mark.parametrize("more", [{}, EXTENSIONS], ids=["", "extensions"])
def test_each_way_of_writing_an_event_gives_the_same(
    write: Callable[[Attributes, Any], Message], data: Any, media_type: str | None, more: Attributes
) -> None:
    attributes = {**ATTRIBUTES, **more} | ({"datacontenttype": media_type} if media_type else {})
    assert decode(write(attributes, data)) == EXPECTED


@pytest.mark.parametrize("write", [binary, structured, binary_v1])
def test_data_that_are_not_json_are_refused(write: Callable[[Attributes, Any], Message]) -> None:
    with pytest.raises(UnreadableRecord, match="datacontenttype") as raised:
        decode(write(ATTRIBUTES | {"datacontenttype": "image/jpeg"}, json.dumps(DATA).encode()))
    assert raised.value.code == "unreadable_record"


@pytest.mark.parametrize("write", [binary, structured, binary_v1, structured_v1])
def test_an_event_without_data_is_refused(write: Callable[[Attributes, Any], Message]) -> None:
    with pytest.raises(UnreadableRecord):
        decode(write(ATTRIBUTES, None))
