"""The contract for other systems as an AsyncAPI 3 document: what they may send, and what is answered. Tests hold its
examples to the records.
"""

from typing import Any

from pydantic.json_schema import models_json_schema

from schemas.bucket_events import BucketNotified
from schemas.cloudevents import STRUCTURED, TYPES, CloudEvent
from schemas.event import EventRecord
from schemas.records import Answer, ImageReceived

REFERENCE = "#/components/schemas/{model}"
IMAGE_ID = "8b0ccb5c-5b0f-4d4c-9d3c-3f3a2f0a7f11"
SOURCE = {"bucket": "facestream", "key": "incoming/acme/ann.jpg", "etag": "9b2cf535f27731c974343645a3985328"}
LEARN: dict[str, Any] = {
    "image_id": IMAGE_ID,
    "purpose": "learn",
    "directory": "acme",
    "person": "Ann Lee",
    "source": SOURCE,
}
RECOGNIZE: dict[str, Any] = {
    "image_id": IMAGE_ID,
    "purpose": "recognize",
    "directory": "acme",
    "source": {"bucket": "photos-of-another-system", "key": "2026/11/24/1.jpg"},
    "options": {"top": 1, "min_face": 40},
}
DETECT: dict[str, Any] = {"image_id": IMAGE_ID, "purpose": "detect", "directory": "acme", "source": SOURCE}
DATA = {name: value for name, value in LEARN.items() if name not in ("image_id", "purpose")}
ATTRIBUTES = {"specversion": "1.0", "type": "facestream.image.learn", "source": "/cms", "id": "article-42"}
LEARNED = {
    "image_id": IMAGE_ID,
    "purpose": "learn",
    "directory": "acme",
    "status": 201,
    "body": {
        "status": "OK",
        "image_id": IMAGE_ID,
        "url": f"/files/{IMAGE_ID}.jpg",
        "filename": "ann.jpg",
        "directory": "acme",
        "persons": [
            {
                "id": "Ann Lee",
                "box": [301, 62, 640, 401],
                "score": 0.999,
                "detection_score": 0.98,
                "face_id": "9c0d7b0a-3a69-5f0a-9d07-5f2b1a0e6d55",
            }
        ],
        "ignored": [],
        "models": {"detector": "centerface", "embedder": "resnet29", "generation": "dlib-resnet29-mirror"},
    },
    "offset": 17,
}
REFUSED = {
    "image_id": IMAGE_ID,
    "purpose": "learn",
    "directory": "acme",
    "status": 422,
    "body": {
        "type": "about:blank",
        "title": "object missing",
        "status": 422,
        "code": "object_missing",
        "detail": "there is no object 'incoming/acme/ann.jpg' in the bucket 'facestream'",
        "image_id": IMAGE_ID,
    },
}
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
    """From facestream's side: it receives images, and sends answers."""
    models: list[type[EventRecord] | type[CloudEvent]] = [ImageReceived, CloudEvent, Answer, BucketNotified]
    _, schemas = models_json_schema([(model, "validation") for model in models], ref_template=REFERENCE)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "facestream",
            "version": "1",
            "description": "Learn and recognize people in images. docs/events.md shows how to send events and to read answers.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "images.received": _channel(
                "images.received", "Images to process, the first lane. Kept for 7 days.", *RECEIVED
            ),
            "images.received.bulk": _channel(
                "images.received.bulk", "The same, for what nobody waits for: it lets the first lane pass.", *RECEIVED
            ),
            "bucket.events": _channel(
                "bucket.events", "What MinIO tells of a bucket. Kept for 7 days.", "bucketNotified"
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
    image_key = {"type": "string", "description": "the image_id; records without a key are taken too"}
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
            {"type": "object", "description": "an ImageReceived, where purpose and image_id may be missing"},
            {"learn": DATA},
            key=image_key,
            headers={f"ce_{name}": value for name, value in ATTRIBUTES.items()},
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
            {"learned": LEARNED, "refused": REFUSED},
            key={"type": "string", "description": "the image_id"},
        ),
    }


def _message(
    title: str,
    payload: dict[str, Any],
    examples: dict[str, dict[str, Any]],
    *,
    key: dict[str, Any],
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    beside = {"headers": headers} if headers else {}
    return {
        "title": title,
        "payload": payload,
        "examples": [{"name": name} | beside | {"payload": value} for name, value in examples.items()],
        "bindings": {"kafka": {"key": key, "bindingVersion": "0.5.0"}},
    }


def _headers() -> dict[str, Any]:
    """Of the binary mode."""
    texts = {f"ce_{name}": {"type": "string", "minLength": 1} for name in ATTRIBUTES}
    texts["ce_type"] = {"type": "string", "enum": list(TYPES)}
    return {"type": "object", "required": list(texts), "properties": texts}


def _schema(model: type[EventRecord] | type[CloudEvent]) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=model.__name__)}
