"""Answers as records to append."""

from collections.abc import Sequence
from typing import Any

from backends.log import NewRecord
from schemas.answers import (
    Body,
    DetectedBody,
    DetectedPerson,
    IgnoredFace,
    LearnedBody,
    LearnedPerson,
    Models,
    RecognizedBody,
    RecognizedPerson,
    problem,
)
from schemas.errors import FacestreamError, InvalidEvent
from schemas.faces import Detection
from schemas.media import extension
from schemas.records import Answer, EraseRequested, ImageReceived
from stream.topics import RESULTS

ANSWER_KEPT_S = 86_400.0  # as long as `results` keeps them


def answer_record(
    received: ImageReceived | EraseRequested, status: int, body: Body, offset: int | None = None
) -> NewRecord:
    """The `results` record of an image or an erase command, for the partition of the ingest replica that waits for it.
    offset: the offset in `faces.embedded` of the answered record.
    """
    image = received if isinstance(received, ImageReceived) else None
    value = Answer(
        image_id=received.image_id,
        purpose=received.purpose,
        directory=received.directory,
        request_digest=image.request_digest if image else None,
        status=status,
        body=body,
        offset=offset,
        store=image.options.store if image else True,
    )
    return NewRecord(RESULTS, received.image_id, value.encode(), received.reply_to)


def error_answer_record(received: ImageReceived | EraseRequested, error: FacestreamError) -> NewRecord:
    return answer_record(received, error.status, problem(error, image_id=received.image_id))


def invalid_event_answer_record(error: InvalidEvent) -> NewRecord:
    """The answer to an event that does not fit its schema."""
    event = dict(error.event)
    reply_to, image_id = event.pop("reply_to", None), event["image_id"]
    value = Answer(**event, status=error.status, body=problem(error, image_id=image_id))
    return NewRecord(RESULTS, image_id, value.encode(), reply_to)


def learned_body(
    received: ImageReceived, person: LearnedPerson, ignored: list[IgnoredFace], models: Models, image_id: str
) -> LearnedBody:
    """image_id: the image under which the picture is stored. It is another image if that has the same picture."""
    return LearnedBody(
        **_image_members(received, image_id),
        persons=[person],
        ignored=ignored,
        models=models,
    )


def recognized_body(received: ImageReceived, persons: list[RecognizedPerson], models: Models) -> RecognizedBody:
    return RecognizedBody(**_image_members(received, received.image_id), persons=persons, models=models)


def detected_body(received: ImageReceived, faces: Sequence[Detection], detector: str) -> DetectedBody:
    return DetectedBody(
        **_image_members(received, received.image_id),
        persons=[DetectedPerson(**face.model_dump()) for face in faces],
        models=Models(detector=detector),
    )


def _image_members(received: ImageReceived, image_id: str) -> dict[str, Any]:
    return {
        "status": "OK",
        "image_id": image_id,
        "url": f"/files/{image_id}.{extension(received.media_type)}",
        "filename": received.filename,
        "directory": received.directory,
    }
