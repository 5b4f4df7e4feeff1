"""The worker loop of the system: poll, hand over, handle, append, commit. Read it from the top to the bottom.

A stage knows nothing of offsets. The worker gives it records, appends its outputs, waits until the log has acknowledged
them, and commits last (rule 2 in docs/architecture.md). Where order counts, the records of one partition and one
sequence (a directory, for example) are handled in order, a batch at a time. Elsewhere each record is handled by itself,
many at once.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import structlog

from backends.log import Committed, Consumer, EventLog, NewRecord, Record, TopicPartition
from schemas.errors import FacestreamError, Fenced, ProcessingFailed, StorageFull, Unavailable
from stream.commit_notes import Attempt, CleanStop, CommitNote, RunBy, noted, notes_of_new_owner
from stream.epoch import NO_EPOCH, Epoch, end_offsets
from stream.failures import GIVE_UP_AFTER_S, MOST_ATTEMPTS, Attempts, backoff_s, ended_the_process, outputs_of_failure
from stream.lanes import Lanes
from stream.partition_progress import PartitionProgress
from stream.stage import Stage
from stream.stage_metrics import count_done
from stream.stop_signal import StopSignal
from stream.suspects import suspects_after

log = structlog.get_logger(__name__)

COMMIT_EVERY_S = 0.2  # a commit costs as much as a record's hop; what is done again after a crash has the same effect
COMMIT_RETRY_S = 0.1
UNSURE_S = 0.1  # between two looks whether the partitions are this member's still
MOST_RETRYING = 1_000  # records that wait for another try: with more of them nothing is polled


class Worker:
    """Runs one stage as one member of its consumer group, until `stop`.

    `bulk` are the topics of the second lane. `sequence_of` names the sequence of a record; None where order does not
    count. `linger_s` is as for EventLog.consumer. After an unclean end, `suspects_together` records are tried at a
    time, and each alone when that ends uncleanly too. `give_up_after_s` is how long records are retried although the
    stores that the stage needs are there.
    """

    def __init__(
        self,
        log_: EventLog,
        stage: Stage,
        topics: Sequence[str],
        *,
        bulk: Sequence[str] = (),
        sequence_of: Callable[[Record], str] | None = None,
        member: str,
        max_in_flight: int,
        suspects_together: int = 1,
        linger_s: float = 0.0,
        give_up_after_s: float = GIVE_UP_AFTER_S,
    ) -> None:
        self._log, self._stage, self._topics = log_, stage, [*topics, *bulk]
        self._lanes, self._max_in_flight = Lanes(topics, frozenset(bulk), max_in_flight), max_in_flight
        self._sequence_of, self._suspects_together = sequence_of, suspects_together
        self._member, self._run_by_me, self._linger_s = member, RunBy(member), linger_s
        self._give_up_after_s = give_up_after_s
        self._consumer: Consumer | None = None
        self._epoch = Epoch(NO_EPOCH, {}, {})
        self._handling = 0  # calls of the stage's `handle` under way
        self._stop = StopSignal(stage.name)
        self._changed = asyncio.Event()  # something that the loop may be waiting for
        self._done_since_commit = asyncio.Event()
        self.ready = asyncio.Event()

    @property
    def name(self) -> str:
        return self._stage.name

    async def check(self) -> None:
        """Raises Unavailable as long as the worker has not joined its group."""
        if not self.ready.is_set():
            raise Unavailable("joining its consumer group")

    def stop(self) -> None:
        """Ends the loop: what is being handled is finished and committed, what waits for another try is left to the
        next start.
        """
        self._stop.set()
        self._changed.set()

    async def run(self) -> None:
        """Raises what no retry can mend: OffsetGone, TopicMismatch, or a defect of the worker itself."""
        consumer = self._consumer = await self._stop.unless_set("join", self._join)
        if consumer is None:
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                committing = tasks.create_task(self._keep_committing(consumer))
                async with asyncio.TaskGroup() as handling:
                    await self._loop(consumer, handling)
                committing.cancel()
            await self._commit(consumer, CleanStop())
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
            records = await self._stop.unless_set("poll", partial(self._poll, consumer))
            if records is None:
                return
            if consumer.epoch != self._epoch.number and not await self._begin_epoch(consumer):
                return
            self.ready.set()
            for record in records:
                self._epoch.polled(record, self._sequence_of(record) if self._sequence_of else "")

    # Poll.

    async def _poll(self, consumer: Consumer) -> list[Record]:
        """The next records of the lane whose turn it is; [] when there are none, or no more may be in flight. Where
        order counts, a partition gets at most three quarters of what may be in flight, so that one slow sequence leaves
        room for others.
        """
        epoch = self._epoch
        free = self._max_in_flight - epoch.in_flight.total()
        if free <= 0 or len(epoch.retrying) >= MOST_RETRYING:
            await self._change()
            return []
        paused: Collection[TopicPartition] = ()
        if self._sequence_of is not None:
            free = min(free, max(1, self._max_in_flight // 4))
            paused = epoch.with_more_undone_than(self._max_in_flight // 2)
        for poll in self._lanes.next_polls(free, epoch.in_flight, brief=bool(paused)):
            records = await consumer.poll(poll.max_records, poll.timeout_s, topics=poll.topics, paused=paused)
            if records or consumer.epoch != epoch.number:
                return records
        return []

    async def _begin_epoch(self, consumer: Consumer) -> bool:
        """Goes on with the assignment that the last poll brought, once the stage has ended what it was handling. False
        when the worker was stopped before that.
        """
        self._epoch.end()
        assignment = consumer.assignment
        ends = await self._stop.unless_set("reading end offsets", partial(end_offsets, self._log, assignment))
        if ends is None:
            return False
        await self._stage_is_idle()
        suspects = suspects_after(
            assignment,
            ends,
            member=self._member,
            first_epoch=self._epoch.number == NO_EPOCH,
            in_flight=self._max_in_flight,
            together=self._suspects_together,
        )
        self._epoch = Epoch(consumer.epoch, assignment, suspects)
        await self._stage.assigned(assignment)
        if notes := notes_of_new_owner(assignment, self._member):
            await self._commit_patiently(consumer, notes)
        return True

    # Hand over.

    def _hand_over(self, tasks: asyncio.TaskGroup) -> None:
        """Starts what waits: one task a record or, where order counts, one a sequence."""
        epoch = self._epoch
        for progress in epoch.partitions.values():
            if self._sequence_of is None:
                for records in progress.waiting.values():
                    for record in records:
                        tasks.create_task(self._process([record], epoch))
                progress.waiting.clear()
            elif not progress.suspects.undone:
                for sequence in progress.waiting.keys() - progress.busy:
                    progress.busy.add(sequence)
                    tasks.create_task(self._process_sequence(progress, sequence, epoch))

    async def _process_sequence(self, progress: PartitionProgress, sequence: str, epoch: Epoch) -> None:
        """Processes a sequence's records, all that wait at a time, until none waits or the partition is lost."""
        while not self._stop.is_set and epoch.is_current:
            batch = progress.waiting.pop(sequence, None)
            if batch is None:
                break
            await self._process(list(batch), epoch)
        progress.busy.discard(sequence)

    async def _try_suspects(self, consumer: Consumer, tasks: asyncio.TaskGroup) -> None:
        """Tries suspects, one group after the other. A suspect that waits for another try holds up those behind it: an
        attempt is noted by a commit of its offset, and nothing is committed past a record that is not done.
        """
        epoch = self._epoch
        while not self._stop.is_set and (records := epoch.take_suspects(self._sequence_of)):
            at, offset = records[0].topic_partition, records[0].offset
            attempt = epoch.partitions[at].suspects.next_attempt(records[0])
            await self._stage_is_idle()
            if attempt > MOST_ATTEMPTS:
                await self._give_up(records[0], ended_the_process(), MOST_ATTEMPTS, epoch)
                continue
            epoch.committed({at: offset})  # a commit of what was done before must not undo the note
            if not await self._commit_patiently(consumer, {at: noted(offset, Attempt(attempt))}):
                continue
            trial = tasks.create_task(self._process(records, epoch))
            trial.add_done_callback(lambda _: self._changed.set())
            while not trial.done() and epoch.retrying.isdisjoint(records):
                await self._change()
            await self._commit(consumer, self._run_by_me)  # at once: the next one may end the process

    # Handle and append.

    async def _process(self, records: list[Record], epoch: Epoch) -> bool:
        """Handles records, appends what comes of them, and marks them as done. What fails is tried again, record by
        record, and given up in the end. False when the worker was stopped, or the partition was lost, before that.
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
                self._done(records, epoch)
                return True
            if not epoch.is_current:
                return False
            match await attempts.after(error):
                case "one by one":
                    for record in records:
                        if not await self._process([record], epoch):
                            return False
                    return True
                case "give up":
                    return await self._give_up(records[0], error, attempts.failed, epoch)
                case "again":
                    with epoch.waiting(records):
                        self._changed.set()
                        await self._stop.sleep(backoff_s(attempts.failed))
                    self._changed.set()
                    if self._stop.is_set:
                        return False
        return False

    async def _handle(self, records: list[Record]) -> list[NewRecord]:
        """The outputs of the stage. Raises FacestreamError, ProcessingFailed for a defect of the stage."""
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
        """Appends outputs; they are flushed when this returns. Tries without end: what is appended twice has one
        effect, what is not appended is lost. A worker that has lost its partitions must not append, so it waits while
        it is not sure of them. False when it was stopped, or has lost them, before that: the records come again.

        Raises InvalidRequest, with nothing appended, when an output is larger than the log takes.
        """
        failures = 0
        while outputs:
            if self._consumer is None or not self._consumer.holds():
                if self._stop.is_set or not epoch.is_current:
                    return False
                await self._stop.sleep(UNSURE_S)
                continue
            try:
                await self._log.append(outputs)
                return True
            except (Unavailable, StorageFull) as error:
                log.warning("append failed", stage=self._stage.name, reason=error.message)
                if self._stop.is_set:
                    return False
                failures += 1
                await self._stop.sleep(backoff_s(failures))
        return True

    async def _give_up(self, record: Record, error: FacestreamError, attempts: int, epoch: Epoch) -> bool:
        """Appends an answer and, where it takes one, a dead letter. False as for `_process`."""
        if not await self._append(outputs_of_failure(self._stage, record, error, attempts), epoch):
            return False
        self._done([record], epoch)
        return True

    def _done(self, records: Sequence[Record], epoch: Epoch) -> None:
        epoch.done(records)
        self._done_since_commit.set()
        self._changed.set()

    # Commit.

    async def _keep_committing(self, consumer: Consumer) -> None:
        while True:
            await self._done_since_commit.wait()
            await asyncio.sleep(COMMIT_EVERY_S)
            self._done_since_commit.clear()
            await self._commit(consumer, self._run_by_me)

    async def _commit(self, consumer: Consumer, note: CommitNote) -> None:
        """Commits what is done since the last commit; every partition at a clean stop, so that the next start knows of
        it. A failure is logged, and another commit follows.
        """
        epoch = self._epoch
        offsets = epoch.offsets() if note == CleanStop() else epoch.advanced()
        if not offsets:
            return
        try:
            if await _commit_unless_fenced(consumer, {at: noted(offset, note) for at, offset in offsets.items()}):
                epoch.committed(offsets)
        except (Unavailable, StorageFull) as error:
            log.warning("commit failed", stage=self._stage.name, reason=error.message)
            await asyncio.sleep(COMMIT_RETRY_S)
            self._done_since_commit.set()

    async def _commit_patiently(self, consumer: Consumer, offsets: Mapping[TopicPartition, Committed]) -> bool:
        """Commits, also when the log is away for long. False when the worker was stopped, or the group has rebalanced,
        before that.
        """
        return bool(await self._stop.unless_set("commit", partial(_commit_unless_fenced, consumer, offsets)))

    # Wait.

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _stage_is_idle(self) -> None:
        """Waits until the stage handles nothing. Records may go on waiting for another try."""
        while self._handling:
            await self._change()


async def _commit_unless_fenced(consumer: Consumer, offsets: Mapping[TopicPartition, Committed]) -> bool:
    """False when the group has rebalanced: the next poll brings the new epoch."""
    try:
        await consumer.commit(offsets)
    except Fenced:
        return False
    return True
