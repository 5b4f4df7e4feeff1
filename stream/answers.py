"""Answers and dead letters as records to append."""

from typing import Any

from backends.log import NewRecord, Record
from schemas.errors import FacestreamError
from schemas.media import extension
from schemas.records import Answer, DeadLetter, EraseRequested, ImageReceived, Models, problem
from stream.topics import DEAD_LETTERS, RESULTS

ANSWER_KEPT_S = 86_400.0  # as long as `results` keeps them


def answer(
    received: ImageReceived | EraseRequested, status: int, body: dict[str, Any], offset: int | None = None
) -> NewRecord:
    """The `results` record of an image or an erase command; it goes to the partition of the replica that waits for it.
    offset: of the record in `faces.embedded` that is answered.
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


def error_answer(received: ImageReceived | EraseRequested, error: FacestreamError) -> NewRecord:
    return answer(received, error.status, problem(error, image_id=received.image_id))


def dead_letter(
    record: Record, received: ImageReceived | EraseRequested | None, error: FacestreamError, attempts: int
) -> NewRecord:
    """The record of something that could not be processed; `received` None where the record itself was unreadable. An
    image that is tried again came when it first came: an erasure since then holds for it.
    """
    event = None
    if isinstance(received, ImageReceived):
        event = received.model_copy(update={"received_at": received.came_at(record.timestamp)})
    value = DeadLetter(
        event=event,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        code=error.code,
        reason=error.message,
        attempts=attempts,
    )
    return NewRecord(DEAD_LETTERS, received.image_id if received else record.key, value.encode())


def envelope(
    received: ImageReceived,
    persons: list[dict[str, Any]],
    models: Models,
    *,
    image_id: str | None = None,
    ignored: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The body of every good answer. `image_id` where the picture is kept under another image's name; `ignored` for
    learn.
    """
    image_id = image_id or received.image_id
    body: dict[str, Any] = {
        "status": "OK",
        "image_id": image_id,
        "url": f"/files/{image_id}.{extension(received.media_type)}",
        "filename": received.filename,
        "directory": received.directory,
        "persons": persons,
    }
    if ignored is not None:
        body["ignored"] = ignored
    body["models"] = models.model_dump(exclude_none=True)
    return body
