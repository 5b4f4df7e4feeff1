"""The one worker loop of the system: poll, handle, append the outputs, wait until they are acknowledged, commit.

A stage knows nothing of offsets. The worker gives it records and decides what becomes of its errors: an answer, another try,
or a dead letter. Ordered workers hand over each partition's records in order, one batch at a time; the others handle each
record on its own, many at once.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from backends.log import Committed, Consumer, EventLog, NewRecord, Record, TopicPartition
from schemas.errors import FacestreamError, Fenced, InvalidRequest, ProcessingFailed, StorageFull, Unavailable, UnreadableRecord
from schemas.records import ImageReceived
from stream.answers import dead_letter, error_answer
from stream.progress import Progress

log = structlog.get_logger(__name__)

STOPPED = "stopped"  # commit metadata of a clean end: nothing was under way
RUNNING = ""
ATTEMPT = "attempt "  # and its number: the record at this offset is being tried alone
DEADLY_ATTEMPTS = 3
NO_EPOCH = -1
BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.1, 10.0
POLL_S = 0.5
LOG_AWAY_S = 1.0
MOST_RETRYING = 1_000


class Stage(Protocol):
    """What a worker runs. `name` is its consumer group."""

    name: str

    async def assigned(self, assignment: Mapping[TopicPartition, Committed]) -> None:
        """A new epoch begins: what is held in memory counts only where it is as of the committed offset."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        """The outputs of these records. Effects are idempotent: records may come again. Raises FacestreamError."""

    def received(self, record: Record) -> ImageReceived:
        """The event that a record stems from. Raises UnreadableRecord."""

    async def probe(self) -> None:
        """Raises Unavailable while a store that `handle` needs is away."""


class Worker:
    """Runs one stage as one member of its consumer group, until `stop`."""

    def __init__(
        self,
        log_: EventLog,
        stage: Stage,
        topics: Sequence[str],
        *,
        member: str,
        ordered: bool,
        max_in_flight: int,
        give_up_after_s: float = 900.0,
    ) -> None:
        self._log, self._stage, self._topics, self._member = log_, stage, topics, member
        self._ordered, self._max_in_flight, self._give_up_after_s = ordered, max_in_flight, give_up_after_s
        self._partitions: dict[TopicPartition, Progress] = {}
        self._epoch = NO_EPOCH
        self._in_flight = 0  # records polled and not done, those between two tries left out
        self._retrying: set[Record] = set()  # between two tries
        self._running = 0  # calls of the stage's handle under way
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._advanced = asyncio.Event()
        self.ready = asyncio.Event()

    def stop(self) -> None:
        """Ends the loop: what is under way is finished and committed, what waits for another try is left to the next start."""
        self._stopping.set()
        self._changed.set()

    async def run(self) -> None:
        """Raises what no retry can mend: OffsetGone, TopicMismatch, or a defect of the worker itself."""
        consumer = await self._log.consumer(self._stage.name, self._topics, member=self._member)
        try:
            async with asyncio.TaskGroup() as tasks:
                committing = tasks.create_task(self._keep_committing(consumer))
                async with asyncio.TaskGroup() as units:
                    await self._loop(consumer, units)
                committing.cancel()
            await self._commit(consumer, STOPPED)
        finally:
            await consumer.close()

    async def _loop(self, consumer: Consumer, units: asyncio.TaskGroup) -> None:
        while True:
            for progress in self._partitions.values():
                await self._suspects(consumer, progress, units)
            if self._stopping.is_set():
                return
            for progress in self._partitions.values():
                self._hand_over(progress, units)
            free = self._max_in_flight - self._in_flight
            if free <= 0 or len(self._retrying) >= MOST_RETRYING:
                await self._change()
                continue
            crowded = [at for at, progress in self._partitions.items() if len(progress.waiting) > self._max_in_flight // 4]
            try:
                records = await consumer.poll(free, POLL_S / 5 if crowded else POLL_S, paused=crowded)
            except Unavailable as error:
                await self._log_is_away("poll", error)
                continue
            if consumer.epoch != self._epoch:
                await self._begin_epoch(consumer)
            self.ready.set()
            for record in records:
                progress = self._partitions[record.topic_partition]
                progress.polled(record.offset)
                self._in_flight += 1
                (progress.suspects if progress.is_suspect(record.offset) else progress.waiting).append(record)

    async def _begin_epoch(self, consumer: Consumer) -> None:
        self._epoch, self._partitions = NO_EPOCH, {}  # from here on nothing of the old epoch is committed or handed over
        ends = {topic: await self._end_offsets(topic) for topic in {at.topic for at in consumer.assignment}}
        await self._quiet()
        self._epoch, self._in_flight = consumer.epoch, 0
        self._partitions = {
            at: Progress(
                next_offset=committed.offset,
                committed=committed.offset,
                suspects_below=0 if committed.metadata == STOPPED else ends[at.topic].get(at.partition, 0),
                suspects_left=self._max_in_flight,
            )
            for at, committed in consumer.assignment.items()
        }
        await self._stage.assigned(consumer.assignment)
        stopped = {at: Committed(it.offset, RUNNING) for at, it in consumer.assignment.items() if it.metadata == STOPPED}
        if stopped:
            await self._note(consumer, stopped)

    async def _end_offsets(self, topic: str) -> dict[int, int]:
        while True:
            try:
                return await self._log.end_offsets(topic)
            except Unavailable as error:
                if self._stopping.is_set():
                    raise
                await self._log_is_away("reading end offsets", error)

    def _hand_over(self, progress: Progress, units: asyncio.TaskGroup) -> None:
        """Starts what waits in a partition: one unit a record, or, where order counts, one after the other."""
        if not self._ordered:
            for record in progress.waiting:
                units.create_task(self._unit([record], self._epoch))
            progress.waiting.clear()
        elif progress.waiting and not progress.busy and progress.is_first(progress.waiting[0].offset):
            progress.busy = True
            units.create_task(self._partition(progress, self._epoch))

    async def _partition(self, progress: Progress, epoch: int) -> None:
        """Hands over a partition's records, all that wait at a time, until none waits or the partition is lost."""
        while progress.waiting and not self._stopping.is_set() and epoch == self._epoch:
            batch = list(progress.waiting)
            progress.waiting.clear()
            await self._unit(batch, epoch)
        progress.busy = False

    async def _suspects(self, consumer: Consumer, progress: Progress, units: asyncio.TaskGroup) -> None:
        """Tries a partition's suspects one after the other. One that waits for another try holds up those behind it: the note of
        what is tried is a commit of its offset, and nothing is committed past a record that is not done.
        """
        while progress.suspects and progress.is_first(progress.suspects[0].offset) and not self._stopping.is_set():
            await self._suspect(consumer, progress, progress.suspects.popleft(), units)

    async def _suspect(self, consumer: Consumer, progress: Progress, record: Record, units: asyncio.TaskGroup) -> None:
        """Handles alone a record that may have killed the last process, having noted durably that it is being tried."""
        await self._quiet()
        at = record.topic_partition
        committed = consumer.assignment[at]
        attempt = 1
        if committed.offset == record.offset and committed.metadata.startswith(ATTEMPT):
            attempt += int(committed.metadata.removeprefix(ATTEMPT))
        if attempt > DEADLY_ATTEMPTS:
            error = ProcessingFailed(
                f"processing this image ended the process {DEADLY_ATTEMPTS} times: send another file, or report this one"
            )
            if await self._append(self._given_up(record, error, DEADLY_ATTEMPTS)):
                self._done([record], self._epoch)
            return
        progress.committed = max(progress.committed, record.offset)  # a commit of what was done before must not undo the note
        if await self._note(consumer, {at: Committed(record.offset, f"{ATTEMPT}{attempt}")}):
            unit = units.create_task(self._unit([record], self._epoch))
            unit.add_done_callback(lambda _: self._changed.set())
            while not unit.done() and record not in self._retrying:
                await self._change()

    async def _note(self, consumer: Consumer, offsets: dict[TopicPartition, Committed]) -> bool:
        """Commits, without end while the log is away or full. False when the worker was stopped before that, or the group has
        rebalanced: the next poll brings the new epoch.
        """
        while not self._stopping.is_set():
            try:
                await consumer.commit(offsets)
                return True
            except Fenced:
                return False
            except (Unavailable, StorageFull) as error:
                await self._log_is_away("commit", error)
        return False

    async def _quiet(self) -> None:
        """Waits until the stage handles nothing; what waits for another try may go on waiting."""
        while self._running:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _unit(self, records: list[Record], epoch: int) -> None:
        if await self._process(records, epoch):
            self._done(records, epoch)

    def _done(self, records: list[Record], epoch: int) -> None:
        if epoch != self._epoch:
            return  # another member has these partitions now, or this one reads them again
        for record in records:
            self._partitions[record.topic_partition].done(record.offset)
        self._in_flight -= len(records)
        self._changed.set()
        self._advanced.set()

    async def _process(self, records: list[Record], epoch: int) -> bool:
        """Handles records and appends what comes of them. False when the worker was stopped, or lost the partition, before
        that.
        """
        began, attempt = time.monotonic(), 0
        while epoch == self._epoch:
            attempt += 1
            error: FacestreamError | None = None
            self._running += 1
            try:
                outputs = await self._stage.handle(records)
            except FacestreamError as raised:
                error = raised
            except Exception as raised:
                log.exception("stage failed", stage=self._stage.name, records=len(records))
                error = ProcessingFailed(f"{type(raised).__name__} while processing: the processor's log says more")
            finally:
                self._running -= 1
                self._changed.set()
            if error is None:
                try:
                    return await self._append(outputs)
                except InvalidRequest as raised:  # an output is larger than the log takes, and nothing was appended
                    error = raised
            if epoch != self._epoch:
                return False
            again = await self._may_retry(error, attempt, time.monotonic() - began)
            if len(records) > 1 and (attempt == 2 or not error.retriable or not again):
                for record in records:  # one bad record must not hold the others
                    if not await self._process([record], epoch):
                        return False
                return True
            if not again:
                return await self._append(self._given_up(records[0], error, attempt))
            log.warning("will try again", stage=self._stage.name, code=error.code, reason=error.message, attempt=attempt)
            await self._pause(records, min(BACKOFF_FIRST_S * 2**attempt, BACKOFF_MOST_S) * random.uniform(0.5, 1), epoch)
            if self._stopping.is_set():
                return False
        return False

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
        """What a record that cannot be processed leaves behind: an answer, and a dead letter where it is not the image's own
        fault.
        """
        try:
            received = self._stage.received(record)
        except UnreadableRecord as unreadable:
            log.error(
                "unreadable record", stage=self._stage.name, topic=record.topic, offset=record.offset, reason=unreadable.message
            )
            return [dead_letter(record, None, error, attempts)]
        answer = error_answer(received, error)
        if error.retriable or isinstance(error, ProcessingFailed):
            log.error("given up", stage=self._stage.name, image_id=received.image_id, code=error.code, reason=error.message)
            return [dead_letter(record, received, error, attempts), answer]
        return [answer]

    async def _append(self, outputs: list[NewRecord]) -> bool:
        """Appends without end: what is appended twice has one effect, what is not appended is lost. False when the worker was
        stopped before that: the records are handled again then.
        """
        delay_s = BACKOFF_FIRST_S
        while outputs:
            try:
                await self._log.append(outputs)
                return True
            except (Unavailable, StorageFull) as error:
                log.warning("append failed", stage=self._stage.name, reason=error.message)
                if self._stopping.is_set():
                    return False
                await self._sleep(delay_s)
                delay_s = min(delay_s * 2, BACKOFF_MOST_S)
        return True

    async def _pause(self, records: list[Record], seconds: float, epoch: int) -> None:
        """Waits between two tries; what waits does not count as in flight, so that others go on."""
        self._in_flight -= len(records)
        self._retrying.update(records)
        self._changed.set()
        await self._sleep(seconds)
        self._retrying.difference_update(records)
        if epoch == self._epoch:
            self._in_flight += len(records)
        self._changed.set()

    async def _log_is_away(self, what: str, error: Unavailable | StorageFull) -> None:
        log.warning(f"{what} failed", stage=self._stage.name, reason=error.message)
        await self._sleep(LOG_AWAY_S)

    async def _sleep(self, seconds: float) -> None:
        """Sleeps, until the worker is stopped at the latest."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _keep_committing(self, consumer: Consumer) -> None:
        while True:
            await self._advanced.wait()
            self._advanced.clear()
            await self._commit(consumer, RUNNING)

    async def _commit(self, consumer: Consumer, metadata: str) -> None:
        """Commits what is done; every partition at the end, so that the next start knows it was clean."""
        ahead = {
            at: it.next_offset for at, it in self._partitions.items() if it.next_offset > it.committed or metadata == STOPPED
        }
        if not ahead:
            return
        try:
            await consumer.commit({at: Committed(offset, metadata) for at, offset in ahead.items()})
        except Fenced:
            return  # the next poll brings the new epoch
        except (Unavailable, StorageFull) as error:
            log.warning("commit failed", stage=self._stage.name, reason=error.message)
            if metadata != STOPPED:
                await asyncio.sleep(BACKOFF_FIRST_S)
                self._advanced.set()
            return
        for at, offset in ahead.items():
            if at in self._partitions:
                self._partitions[at].committed = max(self._partitions[at].committed, offset)
