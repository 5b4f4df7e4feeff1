"""The expected failures: each has a stable code, an HTTP status, a message that says what to do, and whether a retry
may help.

The worker decides by `retriable` and clients decide by `code`. Nothing may depend on the text of a message.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class FacestreamError(Exception):
    """Base of every expected failure.

    `details` are further members of the problem+json body (JSON values only).
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retriable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidRequest(FacestreamError):
    code, status = "invalid_request", 400


class MissingField(InvalidRequest):
    code = "missing_field"


class Unauthorized(FacestreamError):
    code, status = "unauthorized", 401


class Forbidden(FacestreamError):
    code, status = "forbidden", 403


class NotFound(FacestreamError):
    code, status = "not_found", 404


class MethodNotAllowed(FacestreamError):
    """`allowed`, a detail, lists the methods that the path takes."""

    code, status = "method_not_allowed", 405


class ExpectationFailed(FacestreamError):
    code, status = "expectation_failed", 417


class Erased(FacestreamError):
    code, status = "erased", 409


class Expired(FacestreamError):
    code, status = "expired", 410


class UploadStalled(FacestreamError):
    """The caller has sent nothing more of an upload for too long."""

    code, status = "upload_stalled", 408


class UploadTooLarge(FacestreamError):
    code, status = "upload_too_large", 413


class TooManyPixels(FacestreamError):
    code, status = "too_many_pixels", 413


class NotAnImage(FacestreamError):
    code, status = "not_an_image", 415


class UnsupportedEncoding(FacestreamError):
    code, status = "unsupported_encoding", 415


class UnreadableImage(FacestreamError):
    code, status = "unreadable_image", 422


class NoFace(FacestreamError):
    code, status = "no_face", 422


class NotOneFace(FacestreamError):
    code, status = "not_one_face", 422


class FaceTooSmall(FacestreamError):
    code, status = "face_too_small", 422


class GenerationRetired(FacestreamError):
    code, status = "generation_retired", 503


class IdempotencyKeyReused(FacestreamError):
    code, status = "idempotency_key_reused", 422


class ObjectMissing(FacestreamError):
    """The object that a record refers to is not in the store."""

    code, status = "object_missing", 422


class ForbiddenSource(FacestreamError):
    """An event refers to an object that it is not allowed to use."""

    code, status = "forbidden_source", 403


class UnreadableRecord(FacestreamError):
    """A record of a topic does not fit its schema."""

    code, status = "unreadable_record", 422


class InvalidEvent(UnreadableRecord):
    """An event does not fit its schema, but says which image it is about. `event` has its members that say whom to
    answer, as far as they fit: image_id, purpose, directory, reply_to.
    """

    code, status = "invalid_event", 400

    def __init__(self, message: str, event: Mapping[str, Any] | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.event = event or {}


class ProcessingFailed(FacestreamError):
    """A record was retried for too long or ended its process three times. It is now in `dead-letters`."""

    code, status = "processing_failed", 500


class TooMuchInFlight(FacestreamError):
    code, status = "too_much_in_flight", 429


class Unavailable(FacestreamError):
    """A store or the log cannot be reached, or the outcome of a write is unknown."""

    code, status, retriable = "unavailable", 503, True


class NoProcessor(FacestreamError):
    """No processor takes the image, so its request would wait in vain."""

    code, status = "no_processor", 503


class NoSink(FacestreamError):
    """No sink takes the faces of the directory, so the request would wait in vain."""

    code, status = "no_sink", 503


class HeldBack(FacestreamError):
    """A transaction of another system is open in a partition that the image would pass."""

    code, status = "held_back", 503


class StorageFull(FacestreamError):
    code, status, retriable = "storage_full", 507, True


class StoreDamaged(FacestreamError):
    """A file of a store is damaged, or is something else. Trying again helps once it has been replaced."""

    code, status, retriable = "store_damaged", 500, True


class OffsetGone(FacestreamError):
    """A committed offset no longer exists: records were deleted before they were handled."""

    code, status = "offset_gone", 500


class Fenced(FacestreamError):
    """A commit was made under an assignment that this consumer no longer has."""

    code, status = "fenced", 500


class TopicMismatch(FacestreamError):
    """A topic exists with settings that differ from those in stream/topics.py."""

    code, status = "topic_mismatch", 500


class WeightsInvalid(FacestreamError):
    """A weights file is missing, or its sha256 differs from the manifest."""

    code, status = "weights_invalid", 500


class ConfigurationError(FacestreamError):
    """The settings contradict each other or the machine."""

    code, status = "configuration_error", 500


class MissingRight(ConfigurationError):
    """A server refuses a request of our user, who lacks a right. It helps to grant it."""

    retriable = True


# For events that do not fit their schema, or break a rule that the schema cannot express: docs/events.md lists them.
REFUSALS_OF_EVENTS: tuple[type[FacestreamError], ...] = (
    InvalidEvent,
    ForbiddenSource,
    ObjectMissing,
    UploadTooLarge,
    TooManyPixels,
    NotAnImage,
    UnreadableImage,
    NoFace,
    NotOneFace,
    FaceTooSmall,
    Erased,
)
