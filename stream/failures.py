"""Decides what happens to records that a stage could not handle: another try, or an answer and a dead letter."""

import random
import time
from collections.abc import Sequence
from typing import Literal

import structlog

from backends.log import NewRecord, Record
from schemas.errors import (
    FacestreamError,
    ForbiddenSource,
    InvalidEvent,
    MissingRight,
    ProcessingFailed,
    StorageFull,
    Unavailable,
    UnreadableRecord,
)
from stream.answers import error_answer_record, invalid_event_answer_record
from stream.dead_letters import dead_letter_record
from stream.stage import Stage
from stream.stage_metrics import DEAD_LETTERS, ERRORS

log = structlog.get_logger(__name__)

MOST_ATTEMPTS = 3  # for a record that makes the stage fail or ends the process
BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.1, 10.0
MOST_DOUBLINGS = 16  # the backoff has reached its maximum by then; with more, the number would be too large for a float
GIVE_UP_AFTER_S = 900.0
IMAGES_LOGGED = 8  # listed in one line of the process's log


def backoff_s(failures: int) -> float:
    """How long to wait after that many failures in a row: twice as long each time, with jitter."""
    return min(BACKOFF_FIRST_S * 2.0 ** min(failures, MOST_DOUBLINGS), BACKOFF_MOST_S) * random.uniform(0.5, 1)


def process_ended_error() -> ProcessingFailed:
    """The error for a record that is not tried again, because its attempts have ended the process MOST_ATTEMPTS
    times.
    """
    return ProcessingFailed(
        f"processing this image ended the process {MOST_ATTEMPTS} times: send another file, or report this one"
    )


class Attempts:
    """The attempts to handle some records together. `failed`: how many have failed so far."""

    def __init__(self, stage: Stage, records: Sequence[Record], give_up_after_s: float) -> None:
        self._stage, self._records, self._give_up_after_s = stage, records, give_up_after_s
        self._began = time.monotonic()
        self.failed = 0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    async def next_step(self, error: FacestreamError) -> Literal["again", "one by one", "give up"]:
        """What to do when an attempt has failed. One bad record must not hold up those that are handled with it."""
        self.failed += 1
        ERRORS.labels(self._stage.name, error.code).inc()
        again = await self._may_retry(error)
        if len(self._records) > 1 and (self.failed == 2 or not error.retriable or not again):
            return "one by one"
        if not again:
            return "give up"
        log.warning(
            "will try again",
            stage=self._stage.name,
            image_ids=[record.key for record in self._records[:IMAGES_LOGGED]],
            code=error.code,
            reason=error.message,
            attempt=self.failed,
        )
        return "again"

    async def _may_retry(self, error: FacestreamError) -> bool:
        if isinstance(error, ProcessingFailed):
            return self.failed < MOST_ATTEMPTS
        if not error.retriable:
            return False
        if self.elapsed_s < self._give_up_after_s or isinstance(error, StorageFull | MissingRight):
            return True
        try:
            await self._stage.check_stores()
        except Unavailable:
            return True  # the store itself is unavailable: wait for it without limit
        return False


def outputs_of_failure(stage: Stage, record: Record, error: FacestreamError, attempts: int) -> list[NewRecord]:
    """The records to append for a record that cannot be processed: an answer, and a dead letter unless the image itself
    is at fault. A record that does not say which image it is about gets no answer.
    """
    try:
        received = stage.event_of(record)
    except UnreadableRecord as unreadable:
        DEAD_LETTERS.labels(stage.name, error.code).inc()
        log.error(
            "unreadable record",
            stage=stage.name,
            image_id=unreadable.event["image_id"] if isinstance(unreadable, InvalidEvent) else record.key,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=unreadable.message,
        )
        letter = dead_letter_record(record, None, error, attempts, stage.name)
        return [letter, invalid_event_answer_record(unreadable)] if isinstance(unreadable, InvalidEvent) else [letter]
    answer = error_answer_record(received, error)
    # ForbiddenSource gets a dead letter too: the sender may never look at the answer, so this is where the operator
    # finds it.
    if error.retriable or isinstance(error, (ProcessingFailed, ForbiddenSource)):
        DEAD_LETTERS.labels(stage.name, error.code).inc()
        log.error("given up", stage=stage.name, image_id=received.image_id, code=error.code, reason=error.message)
        return [dead_letter_record(record, received, error, attempts, stage.name), answer]
    log.info("refused", stage=stage.name, image_id=received.image_id, code=error.code)
    return [answer]
