"""One handling of some records: the stage's work, its errors, another try, an answer or a dead letter, and the append
of what comes of it. The worker decides which records, and commits.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog
from prometheus_client import Counter, Histogram

from backends.log import Committed, EventLog, NewRecord, Record, TopicPartition
from schemas.errors import (
    FacestreamError,
    ForbiddenSource,
    InvalidRequest,
    ProcessingFailed,
    StorageFull,
    Unavailable,
    UnreadableRecord,
)
from schemas.records import EraseRequested, ImageReceived
from stream.answers import dead_letter, error_answer

log = structlog.get_logger(__name__)

RECORDS = Counter("facestream_records_total", "Records that a stage has done", ["stage", "topic"])
BATCH = Histogram(
    "facestream_batch_records",
    "Records handed over at a time",
    ["stage"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
SECONDS = Histogram("facestream_stage_seconds", "Time that a stage takes for what it is handed", ["stage"])
ERRORS = Counter("facestream_errors_total", "Errors by code, tries that are repeated too", ["stage", "code"])
DEAD_LETTERS = Counter("facestream_dead_letters_total", "Records that could not be processed", ["stage", "code"])
DEADLY_ATTEMPTS = 3
BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.1, 10.0
GIVE_UP_AFTER_S = 900.0
MOST_NAMED = 8  # images in a line of the log


class Stage(Protocol):
    """What a worker runs. `name` is its consumer group."""

    name: str

    async def assigned(self, assignment: Mapping[TopicPartition, Committed]) -> None:
        """A new epoch begins: what is held in memory counts only where it is as of the committed offset."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        """The outputs of these records. Effects are idempotent: records may come again. Raises FacestreamError."""

    def received(self, record: Record) -> ImageReceived | EraseRequested:
        """The event that a record stems from; `received_at` says when it came, where the record is not the event
        itself. Raises UnreadableRecord.
        """

    async def probe(self) -> None:
        """Raises Unavailable while a store that `handle` needs is away."""


class Attempts:
    """`paused` and `resumed` are told of records that begin and end waiting for another try, and whether they are this
    member's still. `holds` says whether it is sure that nobody else has them: what a zombie has made is not appended.
    """

    def __init__(
        self,
        log_: EventLog,
        stage: Stage,
        stopping: asyncio.Event,
        *,
        paused: Callable[[Sequence[Record], bool], None],
        resumed: Callable[[Sequence[Record], bool], None],
        changed: Callable[[], None],
        holds: Callable[[], bool],
        give_up_after_s: float,
    ) -> None:
        self._log, self._stage, self._stopping = log_, stage, stopping
        self._paused, self._resumed, self._changed, self._holds = paused, resumed, changed, holds
        self._give_up_after_s = give_up_after_s
        self.running = 0  # calls of the stage's handle under way

    async def process(self, records: list[Record], current: Callable[[], bool]) -> bool:
        """Handles records and appends what comes of them. False when the worker was stopped, or the partition was lost
        (`current` says no), before that.
        """
        began, attempt = time.monotonic(), 0
        while current():
            attempt += 1
            error = await self._attempt(records, current)
            if error is None:
                self._count(records, time.monotonic() - began)
                return True
            if isinstance(error, _Stopped) or not current():
                return False
            ERRORS.labels(self._stage.name, error.code).inc()
            again = await self._may_retry(error, attempt, time.monotonic() - began)
            if len(records) > 1 and (attempt == 2 or not error.retriable or not again):
                for record in records:  # one bad record must not hold the others
                    if not await self.process([record], current):
                        return False
                return True
            if not again:
                return await self.give_up(records[0], error, attempt, current)
            log.warning(
                "will try again",
                stage=self._stage.name,
                image_ids=[record.key for record in records[:MOST_NAMED]],
                code=error.code,
                reason=error.message,
                attempt=attempt,
            )
            self._paused(records, current())
            await self.sleep(min(BACKOFF_FIRST_S * 2**attempt, BACKOFF_MOST_S) * random.uniform(0.5, 1))
            self._resumed(records, current())
            if self._stopping.is_set():
                return False
        return False

    async def give_up(self, record: Record, error: FacestreamError, attempts: int, current: Callable[[], bool]) -> bool:
        """Appends what a record that cannot be processed leaves behind: an answer, and a dead letter where it is not
        the image's own fault.
        """
        return await self._append(self._given_up(record, error, attempts), current)

    async def sleep(self, seconds: float) -> None:
        """Sleeps, until the worker is stopped at the latest."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _count(self, records: Sequence[Record], seconds: float) -> None:
        stage = self._stage.name
        BATCH.labels(stage).observe(len(records))
        SECONDS.labels(stage).observe(seconds)
        for record in records:
            RECORDS.labels(stage, record.topic).inc()
            log.info(
                "handled",
                stage=stage,
                image_id=record.key,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                records=len(records),
                ms=round(seconds * 1e3, 1),
            )

    async def _attempt(self, records: list[Record], current: Callable[[], bool]) -> FacestreamError | None:
        """None when the records are done."""
        self.running += 1
        try:
            outputs = await self._stage.handle(records)
        except FacestreamError as error:
            return error
        except Exception as error:
            log.exception("stage failed", stage=self._stage.name, records=len(records))
            return ProcessingFailed(f"{type(error).__name__} while processing: the processor's log says more")
        finally:
            self.running -= 1
            self._changed()
        try:
            return (
                None if await self._append(outputs, current) else _Stopped("stopped before the outputs were appended")
            )
        except InvalidRequest as error:  # an output is larger than the log takes, and nothing was appended
            return error

    async def _may_retry(self, error: FacestreamError, attempt: int, elapsed_s: float) -> bool:
        if isinstance(error, ProcessingFailed):
            return attempt < DEADLY_ATTEMPTS
        if not error.retriable:
            return False
        if elapsed_s < self._give_up_after_s or isinstance(error, StorageFull):
            return True
        try:
            await self._stage.probe()
        except Unavailable:
            return True  # the store itself is away: wait for it without end
        return False

    def _given_up(self, record: Record, error: FacestreamError, attempts: int) -> list[NewRecord]:
        try:
            received = self._stage.received(record)
        except UnreadableRecord as unreadable:
            DEAD_LETTERS.labels(self._stage.name, error.code).inc()
            log.error(
                "unreadable record",
                stage=self._stage.name,
                topic=record.topic,
                offset=record.offset,
                reason=unreadable.message,
            )
            return [dead_letter(record, None, error, attempts)]
        answer = error_answer(received, error)
        if error.retriable or isinstance(
            error, (ProcessingFailed, ForbiddenSource)
        ):  # who sent it may not look for an answer
            DEAD_LETTERS.labels(self._stage.name, error.code).inc()
            log.error(
                "given up", stage=self._stage.name, image_id=received.image_id, code=error.code, reason=error.message
            )
            return [dead_letter(record, received, error, attempts), answer]
        log.info("refused", stage=self._stage.name, image_id=received.image_id, code=error.code)
        return [answer]

    async def _append(self, outputs: list[NewRecord], current: Callable[[], bool]) -> bool:
        """Appends without end: what is appended twice has one effect, what is not appended is lost. Not while it is
        unsure whether the records are this member's still. False when the worker was stopped, or has lost them, before
        that: they are handled again then.
        """
        delay_s = BACKOFF_FIRST_S
        while outputs:
            if not self._holds():
                if self._stopping.is_set() or not current():
                    return False
                await self.sleep(BACKOFF_FIRST_S)
                continue
            try:
                await self._log.append(outputs)
                return True
            except (Unavailable, StorageFull) as error:
                log.warning("append failed", stage=self._stage.name, reason=error.message)
                if self._stopping.is_set():
                    return False
                await self.sleep(delay_s)
                delay_s = min(delay_s * 2, BACKOFF_MOST_S)
        return True


class _Stopped(FacestreamError):
    """The worker was stopped while it could not append."""
