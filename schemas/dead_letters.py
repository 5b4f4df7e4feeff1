"""The headers of dead letters, and of events that were retried.

A dead letter is the record that failed: its key, value and headers. Behind these headers come others that say why it
failed, where it was and how often it was tried. Where Kafka Connect has a header for that, it has the same name here.
"""

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.event import Header, Milliseconds, schema_mismatch
from schemas.origins import Origin

# By the members of Failure, in the order in which they are written.
ERROR_HEADERS = {
    "topic": "__connect.errors.topic",
    "partition": "__connect.errors.partition",
    "offset": "__connect.errors.offset",
    "stage": "__connect.errors.stage",
    "exception": "__connect.errors.exception.class.name",
    "reason": "__connect.errors.exception.message",
    "code": "__facestream.errors.code",
    "attempts": "__facestream.errors.attempts",
    "timestamp": "__facestream.errors.timestamp",
}
FIRST_ERROR_HEADER = ERROR_HEADERS["topic"]
RETRIED_HEADER = "__facestream.retried"


class Failure(BaseModel):
    """Why a record could not be processed. `topic`, `partition`, `offset` and `timestamp` are those of the record, and
    `stage` is the consumer group that tried it. `exception` names a Python class; `code` stays the same.
    """

    model_config = ConfigDict(frozen=True)

    topic: str
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)
    stage: str
    exception: str
    reason: str
    code: str
    attempts: int
    timestamp: Milliseconds

    def headers(self) -> tuple[Header, ...]:
        values = self.model_dump()
        return tuple((header, str(values[name]).encode(errors="replace")) for name, header in ERROR_HEADERS.items())


def split_headers(headers: Sequence[Header]) -> tuple[tuple[Header, ...], Failure] | None:
    """The headers of the record that failed, and the failure; None if the headers are not those of a dead letter.
    Raises UnreadableRecord.

    The record may have had headers of that kind itself: the last ones are those of the letter.
    """
    first = max((index for index, (name, _) in enumerate(headers) if name == FIRST_ERROR_HEADER), default=None)
    if first is None:
        return None
    said = {name: (value or b"").decode(errors="replace") for name, value in headers[first:]}
    try:
        members = {name: said.get(header) for name, header in ERROR_HEADERS.items()}
        failure = Failure.model_validate(members, strict=False)  # texts
    except ValidationError as error:
        raise schema_mismatch(error, "dead letter: headers") from None
    return tuple(headers[:first]), failure


class Retried(BaseModel):
    """The header of an event that was retried: where and when the image first came. The value of the record is still
    the one that failed.
    """

    model_config = ConfigDict(frozen=True)

    origin: Origin | None
    received_at: Milliseconds

    @classmethod
    def of(cls, headers: Sequence[Header]) -> Self | None:
        """None if the event was not retried. Raises UnreadableRecord."""
        value = next((value for name, value in reversed(headers) if name == RETRIED_HEADER), None)
        if value is None:
            return None
        try:
            return cls.model_validate_json(value)
        except ValidationError as error:
            raise schema_mismatch(error, f"header {RETRIED_HEADER}") from None

    def added_to(self, headers: Sequence[Header]) -> tuple[Header, ...]:
        """These headers with this one, in place of an earlier one."""
        others = (it for it in headers if it[0] != RETRIED_HEADER)
        return (*others, (RETRIED_HEADER, self.model_dump_json().encode()))
