"""The worker loop of the system: poll, hand over, handle, append, commit. The methods are in that order.

A stage knows nothing of offsets. The worker gives it records, appends its outputs, waits until the log has acknowledged
them, and commits last (rule 2 in docs/architecture.md). If order matters, the records of one partition and one sequence
(for example, a directory) are handled in order, a batch at a time. Otherwise each record is handled separately, many at
once.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial

import structlog

from backends.log import Consumer, EventLog, NewRecord, Record, TopicPartition
from schemas.errors import FacestreamError, ProcessingFailed, StorageFull, Unavailable
from stream.commit_notes import CleanStop, Owner, SuspectAttempt, notes_of_new_owner, offset_with_note
from stream.committer import Committer
from stream.epoch import NO_EPOCH, Epoch, end_offsets
from stream.failures import GIVE_UP_AFTER_S, MOST_ATTEMPTS, Attempts, backoff_s, outputs_of_failure, process_ended_error
from stream.lanes import LaneScheduler
from stream.partition_progress import PartitionProgress
from stream.stage import Stage
from stream.stage_metrics import count_done
from stream.stop_signal import StopSignal
from stream.suspects import suspects_of_assignment

log = structlog.get_logger(__name__)

UNSURE_S = 0.1  # between two checks whether this member still has its partitions
MOST_RETRYING = 1_000  # while more records than this wait for another try, nothing is polled


class Worker:
    """Runs one stage as one member of its consumer group, until `stop`.

    `bulk_topics` are the topics of the second lane. `sequence_of` returns the sequence of a record; it is None if order
    does not matter. `linger_s` is as for EventLog.consumer. After an unclean end, `suspects_per_attempt` records are
    tried at a time, and each one alone if that ends uncleanly too. `give_up_after_s` is how long records are retried
    while the stores that the stage needs are available.
    """

    def __init__(
        self,
        log_: EventLog,
        stage: Stage,
        topics: Sequence[str],
        *,
        bulk_topics: Sequence[str] = (),
        sequence_of: Callable[[Record], str] | None = None,
        member: str,
        max_in_flight: int,
        suspects_per_attempt: int = 1,
        linger_s: float = 0.0,
        give_up_after_s: float = GIVE_UP_AFTER_S,
    ) -> None:
        self._log, self._stage, self._topics = log_, stage, [*topics, *bulk_topics]
        self._lanes = LaneScheduler(topics, frozenset(bulk_topics), max_in_flight)
        self._sequence_of, self._suspects_per_attempt = sequence_of, suspects_per_attempt
        self._member, self._owner_note, self._linger_s = member, Owner(member), linger_s
        self._max_in_flight, self._give_up_after_s = max_in_flight, give_up_after_s
        self._consumer: Consumer | None = None
        self._epoch = Epoch(NO_EPOCH, {}, {})
        self._handling = 0  # running calls of the stage's `handle`
        self._stop = StopSignal(stage.name)
        self._committer = Committer(stage.name, self._stop)
        self._changed = asyncio.Event()  # set when something happens for which the loop may be waiting
        self.ready = asyncio.Event()

    @property
    def name(self) -> str:
        return self._stage.name

    async def check(self) -> None:
        """Raises Unavailable as long as the worker has not joined its group, while its polls, appends or commits fail,
        and while another program has partitions of its group.
        """
        if not self.ready.is_set():
            raise Unavailable("joining its consumer group")
        for purpose, reason in self._stop.failing.items():
            raise Unavailable(f"{purpose} failed: {reason}")
        for member in await self._log.group_members(self._stage.name):
            if member.foreign and member.partitions:
                raise Unavailable(
                    f"another program ({member.client}) has partitions of the consumer group '{self._stage.name}':"
                    " its records are not processed; stop that program"
                )

    def stop(self) -> None:
        """Ends the loop. Records that are being handled are finished and committed, those that wait for a retry are
        not.
        """
        self._stop.set()
        self._changed.set()

    async def run(self) -> None:
        """Runs until `stop`. Raises what no retry can solve: OffsetGone, TopicMismatch, or a bug in the worker
        itself.
        """
        consumer = self._consumer = await self._stop.retry_until_set("join", self._join)
        if consumer is None:
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                committing = tasks.create_task(self._committer.run(consumer, lambda: self._epoch, self._owner_note))
                async with asyncio.TaskGroup() as handling:
                    await self._loop(consumer, handling)
                committing.cancel()
            await self._committer.commit(consumer, self._epoch, CleanStop())
        finally:
            await consumer.close()

    async def _join(self) -> Consumer:
        return await self._log.consumer(self._stage.name, self._topics, member=self._member, linger_s=self._linger_s)

    async def _loop(self, consumer: Consumer, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._try_suspects(consumer, tasks)
            if self._stop.is_set:
                return
            self._hand_over(tasks)
            records = await self._stop.retry_until_set("poll", partial(self._poll, consumer))
            if records is None:
                return
            if consumer.epoch != self._epoch.number and not await self._begin_epoch(consumer):
                return
            for record in records:
                self._epoch.add_polled(record, self._sequence_of(record) if self._sequence_of else "")
            if not records and self._epoch.move_to(consumer.next_offsets()):
                self._committer.notice()

    # Poll.

    async def _poll(self, consumer: Consumer) -> list[Record]:
        """The next records of the lane whose turn it is; [] if there are none, or no more may be in flight. If order
        matters, a partition gets at most three quarters of those that may be, so that a slow sequence leaves room.
        """
        epoch = self._epoch
        free = self._max_in_flight - epoch.in_flight.total()
        if free <= 0 or len(epoch.retrying) >= MOST_RETRYING:
            if not consumer.holds_partitions():  # its records wait in `_append` until the new epoch begins
                return await consumer.poll(1, UNSURE_S, paused=epoch.partitions.keys())
            await self._wait_for_change()
            return []
        paused: Collection[TopicPartition] = ()
        if self._sequence_of is not None:
            free = min(free, max(1, self._max_in_flight // 4))
            paused = epoch.partitions_with_more_undone_than(self._max_in_flight // 2)
        for poll in self._lanes.next_polls(free, epoch.in_flight, brief=bool(paused)):
            records = await consumer.poll(poll.max_records, poll.timeout_s, topics=poll.topics, paused=paused)
            if records or consumer.epoch != epoch.number:
                return records
        return []

    async def _begin_epoch(self, consumer: Consumer) -> bool:
        """Begins a new epoch when the stage is idle. Returns False if the worker was stopped before that."""
        self._epoch.end()
        assignment = consumer.assignment
        ends = await self._stop.retry_until_set("reading end offsets", partial(end_offsets, self._log, assignment))
        if ends is None:
            return False
        await self._wait_for_idle_stage()
        suspects = suspects_of_assignment(
            assignment,
            ends,
            member=self._member,
            first_epoch=self._epoch.number == NO_EPOCH,
            in_flight=self._max_in_flight,
            per_attempt=self._suspects_per_attempt,
        )
        self._epoch = Epoch(consumer.epoch, assignment, suspects)
        await self._stage.on_assignment(assignment)
        if notes := notes_of_new_owner(assignment, self._member):
            await self._committer.commit_patiently(consumer, notes)
        self.ready.set()
        return True

    # Hand over.

    def _hand_over(self, tasks: asyncio.TaskGroup) -> None:
        """Starts tasks for the waiting records: one per record or, if order matters, one per sequence."""
        epoch = self._epoch
        for progress in epoch.partitions.values():
            if self._sequence_of is None:
                for records in progress.waiting.values():
                    for record in records:
                        tasks.create_task(self._process([record], epoch))
                progress.waiting.clear()
            elif not progress.suspects.any_undone:
                for sequence in progress.waiting.keys() - progress.busy:
                    progress.busy.add(sequence)
                    tasks.create_task(self._process_sequence(progress, sequence, epoch))

    async def _process_sequence(self, progress: PartitionProgress, sequence: str, epoch: Epoch) -> None:
        """Processes a sequence's records, all waiting ones at a time, until none waits or the partition is lost."""
        while not self._stop.is_set and epoch.is_current:
            batch = progress.waiting.pop(sequence, None)
            if batch is None:
                break
            await self._process(list(batch), epoch)
        progress.busy.discard(sequence)

    async def _try_suspects(self, consumer: Consumer, tasks: asyncio.TaskGroup) -> None:
        """Tries suspects, one group after the other. A suspect that waits for another try delays the following ones: an
        attempt is noted by a commit of its offset, and nothing is committed past a record that is not done.
        """
        epoch = self._epoch
        while not self._stop.is_set and (records := epoch.take_suspects(self._sequence_of)):
            partition, offset = records[0].topic_partition, records[0].offset
            attempt = epoch.partitions[partition].suspects.next_attempt(records[0])
            await self._wait_for_idle_stage()
            if attempt > MOST_ATTEMPTS:
                await self._give_up(records[0], process_ended_error(), MOST_ATTEMPTS, epoch)
                continue
            epoch.mark_committed({partition: offset})  # a later commit of the same offset must not overwrite the note
            note = offset_with_note(offset, SuspectAttempt(attempt))
            if not await self._committer.commit_patiently(consumer, {partition: note}):
                continue
            trial = tasks.create_task(self._process(records, epoch))
            trial.add_done_callback(lambda _: self._changed.set())
            while not trial.done() and epoch.retrying.isdisjoint(records):
                await self._wait_for_change()
            # immediately, because the next suspect may end the process
            await self._committer.commit(consumer, epoch, self._owner_note)

    # Handle and append.

    async def _process(self, records: list[Record], epoch: Epoch) -> bool:
        """Handles records, appends their outputs, and marks them as done. Records that fail are tried again, one by
        one, and given up in the end. False if the worker was stopped, or the partition was lost, before that.
        """
        attempts = Attempts(self._stage, records, self._give_up_after_s)
        while epoch.is_current:
            try:
                outputs = await self._handle(records)
                if not await self._append(outputs, epoch):
                    return False
            except FacestreamError as failed:
                error = failed
            else:
                count_done(self._stage.name, records, attempts.elapsed_s)
                self._mark_done(records, epoch)
                return True
            if not epoch.is_current:
                return False
            match await attempts.next_step(error):
                case "one by one":
                    for record in records:
                        if not await self._process([record], epoch):
                            return False
                    return True
                case "give up":
                    return await self._give_up(records[0], error, attempts.failed, epoch)
                case "again":
                    with epoch.waiting_for_retry(records):
                        self._changed.set()
                        await self._stop.sleep(backoff_s(attempts.failed))
                    self._changed.set()
                    if self._stop.is_set:
                        return False
        return False

    async def _handle(self, records: list[Record]) -> list[NewRecord]:
        """The outputs of the stage. Raises FacestreamError; ProcessingFailed for a bug in the stage."""
        self._handling += 1
        try:
            return await self._stage.handle(records)
        except FacestreamError:
            raise
        except Exception as error:
            log.exception("stage failed", stage=self._stage.name, records=len(records))
            raise ProcessingFailed(f"{type(error).__name__} while processing: the processor's log says more") from error
        finally:
            self._handling -= 1
            self._changed.set()

    async def _append(self, outputs: list[NewRecord], epoch: Epoch) -> bool:
        """Appends outputs, without a limit of attempts; they are durable when this returns. A worker that has lost its
        partitions must not append, so it waits while it does not know whether it still has them. Returns False if it
        was stopped, or has lost them, before that: the records are polled again. Raises InvalidRequest, with nothing
        appended, if an output is larger than the log accepts.
        """
        failures = 0
        while outputs:
            if self._consumer is None or not self._consumer.holds_partitions():
                if self._stop.is_set or not epoch.is_current:
                    return False
                self._changed.set()
                await self._stop.sleep(UNSURE_S)
                continue
            try:
                await self._log.append(outputs)
                self._stop.failing.pop("append", None)
                return True
            except (Unavailable, StorageFull) as error:
                self._stop.failing["append"] = error.message
                log.warning("append failed", stage=self._stage.name, reason=error.message)
                if self._stop.is_set:
                    return False
                failures += 1
                await self._stop.sleep(backoff_s(failures))
        return True

    async def _give_up(self, record: Record, error: FacestreamError, attempts: int, epoch: Epoch) -> bool:
        """Appends an answer and, if needed, a dead letter. Returns False as `_process` does."""
        if not await self._append(outputs_of_failure(self._stage, record, error, attempts), epoch):
            return False
        self._mark_done([record], epoch)
        return True

    def _mark_done(self, records: Sequence[Record], epoch: Epoch) -> None:
        epoch.mark_done(records)
        self._committer.notice()
        self._changed.set()

    # Wait.

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _wait_for_idle_stage(self) -> None:
        """Waits until the stage is handling nothing. Records may still wait for another try."""
        while self._handling:
            await self._wait_for_change()
