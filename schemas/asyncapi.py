"""The AsyncAPI 3 document for other systems: the events that they may send, and the answers. Tests decode its examples
as records.
"""

import json
from typing import Any

from pydantic.json_schema import models_json_schema

from schemas import examples
from schemas.bucket_events import BucketNotified
from schemas.cloudevents import CONTENT_TYPE, HEADER, IMAGE, JSON_TYPE, STRUCTURED, TYPES, CloudEvent
from schemas.errors import REFUSALS_OF_EVENTS
from schemas.event import EventRecord
from schemas.examples import DIRECTORY, IMAGE_ID, PERSON
from schemas.records import Answer, ImageReceived

REFERENCE = "#/components/schemas/{model}"
SOURCE = {"bucket": "facestream", "key": "incoming/acme/ann.jpg", "etag": "9b2cf535f27731c974343645a3985328"}
LEARN: dict[str, Any] = {
    "image_id": IMAGE_ID,
    "purpose": "learn",
    "directory": DIRECTORY,
    "person": PERSON,
    "source": SOURCE,
}
RECOGNIZE: dict[str, Any] = {
    "image_id": IMAGE_ID,
    "purpose": "recognize",
    "directory": DIRECTORY,
    "source": {"bucket": "photos-of-another-system", "key": "2026/11/24/1.jpg"},
    "options": {"top": 1, "min_face": 40},
}
DETECT: dict[str, Any] = {"image_id": IMAGE_ID, "purpose": "detect", "directory": DIRECTORY, "source": SOURCE}
DATA = {name: value for name, value in LEARN.items() if name not in ("image_id", "purpose")}
ATTRIBUTES = {"specversion": "1.0", "type": "facestream.image.learn", "source": "/cms", "id": "article-42"}
LEARNED = Answer(image_id=IMAGE_ID, purpose="learn", directory=DIRECTORY, status=201, body=examples.LEARNED, offset=17)
REFUSED = Answer(image_id=IMAGE_ID, purpose="learn", directory=DIRECTORY, status=422, body=examples.REFUSED)
ANSWERS = {"learned": LEARNED, "refused": REFUSED}
NOTIFIED = {
    "EventName": "s3:ObjectCreated:Put",
    "Key": "facestream/incoming/acme/learn/Ann Lee/1.jpg",
    "Records": [
        {
            "eventVersion": "2.0",
            "eventSource": "minio:s3",
            "eventName": "s3:ObjectCreated:Put",
            "s3": {
                "bucket": {"name": "facestream"},
                "object": {"key": "incoming%2Facme%2Flearn%2FAnn+Lee%2F1.jpg", "size": 48213, "eTag": SOURCE["etag"]},
            },
        }
    ],
}
RECEIVED = ("imageReceived", "imageReceivedCloudEvent", "imageReceivedBinaryCloudEvent")


def document() -> dict[str, Any]:
    """The document, from the point of view of facestream, which receives images and sends answers."""
    models: list[type[EventRecord] | type[CloudEvent]] = [ImageReceived, CloudEvent, Answer, BucketNotified]
    _, schemas = models_json_schema([(model, "validation") for model in models], ref_template=REFERENCE)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "facestream",
            "version": "1",
            "description": "Learn and recognize people in images. See docs/events.md.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "images.received": _channel(
                "images.received", "Images to process, the first lane. Kept for 7 days.", *RECEIVED
            ),
            "images.received.bulk": _channel(
                "images.received.bulk",
                "The same for bulk work that nobody waits for: images of the first lane are processed first.",
                *RECEIVED,
            ),
            "bucket.events": _channel(
                "bucket.events", "The bucket notifications of MinIO. Kept for 7 days.", "bucketNotified"
            ),
            "results": _channel("results", "Answers to all images. Kept for a day.", "answer"),
        },
        "operations": {
            "receiveImage": _operation("receive", "images.received", *RECEIVED),
            "receiveBulkImage": _operation("receive", "images.received.bulk", *RECEIVED),
            "receiveBucketEvent": _operation("receive", "bucket.events", "bucketNotified"),
            "answer": _operation("send", "results", "answer"),
        },
        "components": {"messages": _messages(), "schemas": schemas["$defs"]},
    }


def _channel(topic: str, description: str, *messages: str) -> dict[str, Any]:
    return {
        "address": topic,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"kafka": {"topic": topic, "bindingVersion": "0.5.0"}},
    }


def _operation(action: str, channel: str, *messages: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }


def _messages() -> dict[str, Any]:
    image_key = {"type": "string", "description": "the image_id; records without a key are accepted too"}
    return {
        "imageReceived": _message(
            "An image to process, as plain JSON",
            _schema(ImageReceived),
            {"learn": LEARN, "recognize": RECOGNIZE, "detect": DETECT},
            key=image_key,
        ),
        "imageReceivedCloudEvent": _message(
            "The same as a CloudEvent in structured mode",
            _schema(CloudEvent),
            {"learn": ATTRIBUTES | {"data": DATA}},
            key=image_key,
        )
        | {"contentType": STRUCTURED},
        "imageReceivedBinaryCloudEvent": _message(
            "The same as a CloudEvent in binary mode: the attributes are headers",
            {"type": "object", "description": IMAGE},
            {"learn": DATA},
            key=image_key,
            headers={CONTENT_TYPE: "application/json"}
            | {f"{HEADER}{name}": value for name, value in ATTRIBUTES.items()},
        )
        | {"headers": _headers()},
        "bucketNotified": _message(
            "A notification of MinIO",
            _schema(BucketNotified),
            {"put": NOTIFIED},
            key={"type": "string", "description": "bucket and name"},
        ),
        "answer": _message(
            "The answer to an image: an HTTP status, and the body that a request over HTTP gets",
            _schema(Answer),
            {name: json.loads(it.encode()) for name, it in ANSWERS.items()},
            key={"type": "string", "description": "the image_id"},
        )
        | {"description": f"An event may be refused with the code {', '.join(it.code for it in REFUSALS_OF_EVENTS)}."},
    }


def _message(
    title: str,
    payload: dict[str, Any],
    examples: dict[str, dict[str, Any]],
    *,
    key: dict[str, Any],
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    optional = {"headers": headers} if headers else {}
    return {
        "title": title,
        "payload": payload,
        "examples": [{"name": name} | optional | {"payload": value} for name, value in examples.items()],
        "bindings": {"kafka": {"key": key, "bindingVersion": "0.5.0"}},
    }


def _headers() -> dict[str, Any]:
    """The headers of the binary mode."""
    texts: dict[str, Any] = {f"{HEADER}{name}": {"type": "string", "minLength": 1} for name in ATTRIBUTES}
    texts[f"{HEADER}type"] = {"type": "string", "enum": list(TYPES)}
    media_type = {CONTENT_TYPE: {"type": "string", "pattern": JSON_TYPE}}
    return {"type": "object", "required": list(texts), "properties": texts | media_type}


def _schema(model: type[EventRecord] | type[CloudEvent]) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=model.__name__)}
