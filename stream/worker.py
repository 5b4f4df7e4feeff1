"""The one worker loop of the system: poll, handle, append the outputs, wait until they are acknowledged, commit.

A stage knows nothing of offsets. The worker gives it records; what becomes of their errors is `stream.attempts`. Where
order counts, the records of one partition and one sequence (a directory, say) are handed over in order, one batch at a
time; elsewhere each record on its own, many at once.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence

import structlog

from backends.log import Committed, Consumer, EventLog, Record, TopicPartition
from schemas.errors import Fenced, ProcessingFailed, StorageFull, Unavailable
from stream.attempts import BACKOFF_FIRST_S, DEADLY_ATTEMPTS, GIVE_UP_AFTER_S, Attempts, Stage
from stream.partition_progress import PartitionProgress

log = structlog.get_logger(__name__)

STOPPED = "stopped"  # commit metadata of a clean end: nothing was under way
RUN_BY = "run by "  # and the member: it has the partition, and something may be under way
ATTEMPT = "attempt "  # and its number: the record at this offset is being tried alone
NO_EPOCH = -1
POLL_S = 0.5
BRIEFLY_S = 0.02  # a poll that leaves something out: it may be wanted again before a record comes
COMMIT_EVERY_S = 0.2  # a commit costs as much as a record's hop; what is done again after a crash has the same effect
LOG_AWAY_S = 1.0
MOST_RETRYING = 1_000
BULK_EVERY = 20  # polls: one in so many asks the bulk lane first
BULK_SHARE, BULK_BESIDE = 4, 1  # of max_in_flight a quarter while the first lane is idle, else one record


class Worker:
    """Runs one stage as one member of its consumer group, until `stop`. `bulk` are the topics of the second lane;
    `sequence_of` names the sequence of a record, None where order does not count; `linger_s` is as for
    EventLog.consumer. After a bad end, `suspects_together` records are tried at a time; when that ends badly too, each
    alone.
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
        self._log, self._stage, self._topics, self._bulk, self._member = log_, stage, topics, frozenset(bulk), member
        self._sequence_of, self._max_in_flight = sequence_of, max_in_flight
        self._suspects_together, self._linger_s = suspects_together, linger_s
        self._consumer: Consumer | None = None
        self._partitions: dict[TopicPartition, PartitionProgress] = {}
        self._epoch = NO_EPOCH
        self._epochs = 0
        self._polls = 0
        self._in_flight: Counter[str] = (
            Counter()
        )  # by topic: records polled and not done, those between two tries left out
        self._retrying: set[Record] = set()  # between two tries
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._advanced = asyncio.Event()
        self._attempts = Attempts(
            log_,
            stage,
            self._stopping,
            paused=self._paused,
            resumed=self._resumed,
            changed=self._changed.set,
            holds=self._holds,
            give_up_after_s=give_up_after_s,
        )
        self.ready = asyncio.Event()

    @property
    def name(self) -> str:
        return self._stage.name

    async def check(self) -> None:
        """Raises Unavailable as long as the worker has not joined its group."""
        if not self.ready.is_set():
            raise Unavailable("joining its consumer group")

    def stop(self) -> None:
        """Ends the loop: what is under way is finished and committed, what waits for another try is left to the next
        start.
        """
        self._stopping.set()
        self._changed.set()

    async def run(self) -> None:
        """Raises what no retry can mend: OffsetGone, TopicMismatch, or a defect of the worker itself."""
        consumer = self._consumer = await self._join()
        if consumer is None:
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                committing = tasks.create_task(self._keep_committing(consumer))
                async with asyncio.TaskGroup() as units:
                    await self._loop(consumer, units)
                committing.cancel()
            await self._commit(consumer, STOPPED)
        finally:
            await consumer.close()

    async def _join(self) -> Consumer | None:
        """None when the worker was stopped before the log was there."""
        while not self._stopping.is_set():
            try:
                return await self._log.consumer(
                    self._stage.name, [*self._topics, *self._bulk], member=self._member, linger_s=self._linger_s
                )
            except Unavailable as error:
                await self._log_is_away("join", error)
        return None

    async def _loop(self, consumer: Consumer, units: asyncio.TaskGroup) -> None:
        while True:
            for progress in self._partitions.values():
                await self._suspects(consumer, progress, units)
            if self._stopping.is_set():
                return
            for progress in self._partitions.values():
                self._hand_over(progress, units)
            free = self._max_in_flight - self._in_flight.total()
            if free <= 0 or len(self._retrying) >= MOST_RETRYING:
                await self._change()
                continue
            try:
                records = await self._poll(consumer, free)
            except Unavailable as error:
                await self._log_is_away("poll", error)
                continue
            if consumer.epoch != self._epoch:
                await self._begin_epoch(consumer)
            self.ready.set()
            for record in records:
                progress = self._partitions[record.topic_partition]
                progress.polled(record.offset)
                self._in_flight[record.topic] += 1
                if progress.is_suspect(record.offset):
                    progress.suspects.append(record)
                else:
                    sequence = self._sequence_of(record) if self._sequence_of else ""
                    progress.waiting.setdefault(sequence, deque()).append(record)

    async def _poll(self, consumer: Consumer, free: int) -> list[Record]:
        """The first lane goes first. The bulk lane gets a few records at a time: when the first has none, and in one
        poll of BULK_EVERY in any case. Where order counts a partition gets at most three quarters of the places, so
        that one sequence that takes its time leaves room for others.
        """
        crowded: list[TopicPartition] = []
        if self._sequence_of is not None:
            free = min(free, max(1, self._max_in_flight // 4))
            crowded = [at for at, it in self._partitions.items() if it.undone > self._max_in_flight // 2]
        wait_s = BRIEFLY_S if crowded else POLL_S
        if not self._bulk:
            return await consumer.poll(free, wait_s, paused=crowded)
        self._polls += 1
        busy = any(count for topic, count in self._in_flight.items() if topic not in self._bulk)
        bulk_in_flight = sum(self._in_flight[topic] for topic in self._bulk)
        room = min(free, (BULK_BESIDE if busy else max(1, self._max_in_flight // BULK_SHARE)) - bulk_in_flight)
        if room <= 0:
            return await consumer.poll(free, BRIEFLY_S, topics=self._topics, paused=crowded)
        lanes: list[tuple[Collection[str], int]] = [(self._topics, free), (self._bulk, room)]
        for topics, most in reversed(lanes) if self._polls % BULK_EVERY == 0 else lanes:
            records = await consumer.poll(most, 0, topics=topics, paused=crowded)
            if records or consumer.epoch != self._epoch:
                return records
        return await consumer.poll(room, wait_s, paused=crowded)

    async def _begin_epoch(self, consumer: Consumer) -> None:
        self._epoch, self._partitions = (
            NO_EPOCH,
            {},
        )  # from here on nothing of the old epoch is committed or handed over
        ends = {topic: await self._end_offsets(topic) for topic in {at.topic for at in consumer.assignment}}
        await self._quiet()
        self._epoch, self._epochs = consumer.epoch, self._epochs + 1
        self._in_flight.clear()
        self._partitions = {
            at: PartitionProgress(
                next_offset=committed.offset,
                committed=committed.offset,
                suspects_below=ends[at.topic].get(at.partition, 0) if self._ended_badly(committed) else 0,
                suspects_left=self._max_in_flight,
                suspects_alone=self._suspects_together == 1 or committed.metadata.startswith(ATTEMPT),
            )
            for at, committed in consumer.assignment.items()
        }
        await self._stage.assigned(consumer.assignment)
        mine = {
            at: Committed(it.offset, self._note_of_run)
            for at, it in consumer.assignment.items()
            if it.metadata != self._note_of_run and not it.metadata.startswith(ATTEMPT)
        }
        if mine:
            await self._note(consumer, mine)

    def _ended_badly(self, committed: Committed) -> bool:
        """Whether the last process under this name had the partition when it ended, and did not end cleanly. One that
        another member has lost, dead or not, looks like any that moves in a rebalance.
        """
        return committed.metadata.startswith(ATTEMPT) or (self._epochs == 1 and committed.metadata == self._note_of_run)

    @property
    def _note_of_run(self) -> str:
        return RUN_BY + self._member

    async def _end_offsets(self, topic: str) -> dict[int, int]:
        while True:
            try:
                return await self._log.end_offsets(topic)
            except Unavailable as error:
                if self._stopping.is_set():
                    raise
                await self._log_is_away("reading end offsets", error)

    def _hand_over(self, progress: PartitionProgress, units: asyncio.TaskGroup) -> None:
        """Starts what waits in a partition: one unit a record, or, where order counts, one after the other in each
        sequence.
        """
        if self._sequence_of is None:
            for records in progress.waiting.values():
                for record in records:
                    units.create_task(self._unit([record], self._epoch))
            progress.waiting.clear()
        elif not progress.suspects_undone:
            for sequence in progress.waiting.keys() - progress.busy:
                progress.busy.add(sequence)
                units.create_task(self._sequence(progress, sequence, self._epoch))

    async def _sequence(self, progress: PartitionProgress, sequence: str, epoch: int) -> None:
        """Hands over a sequence's records, all that wait at a time, until none waits or the partition is lost."""
        while not self._stopping.is_set() and epoch == self._epoch:
            batch = progress.waiting.pop(sequence, None)
            if batch is None:
                break
            await self._unit(list(batch), epoch)
        progress.busy.discard(sequence)

    async def _suspects(self, consumer: Consumer, progress: PartitionProgress, units: asyncio.TaskGroup) -> None:
        """Tries a partition's suspects one after the other, or some of one sequence together. One that waits for
        another try holds up those behind it: the note of what is tried is a commit of its offset, and nothing is
        committed past a record that is not done.
        """
        while progress.suspects and progress.is_first(progress.suspects[0].offset) and not self._stopping.is_set():
            some = [progress.suspects.popleft()]
            while not progress.suspects_alone and progress.suspects and len(some) < self._suspects_together:
                if self._sequence_of and self._sequence_of(progress.suspects[0]) != self._sequence_of(some[0]):
                    break
                some.append(progress.suspects.popleft())
            await self._suspect(consumer, progress, some, units)

    async def _suspect(
        self, consumer: Consumer, progress: PartitionProgress, records: list[Record], units: asyncio.TaskGroup
    ) -> None:
        """Handles by themselves records that may have killed the last process, having noted durably that they are being
        tried.
        """
        await self._quiet()
        record = records[0]
        at = record.topic_partition
        committed = consumer.assignment[at]
        attempt = 1
        if committed.offset == record.offset and committed.metadata.startswith(ATTEMPT):
            attempt += int(committed.metadata.removeprefix(ATTEMPT))
        if attempt > DEADLY_ATTEMPTS:
            error = ProcessingFailed(
                f"processing this image ended the process {DEADLY_ATTEMPTS} times: send another file, or report this one"
            )
            epoch = self._epoch
            if await self._attempts.give_up(record, error, DEADLY_ATTEMPTS, lambda: epoch == self._epoch):
                self._done([record], epoch)
            return
        progress.committed = max(
            progress.committed, record.offset
        )  # a commit of what was done before must not undo the note
        if await self._note(consumer, {at: Committed(record.offset, f"{ATTEMPT}{attempt}")}):
            unit = units.create_task(self._unit(records, self._epoch))
            unit.add_done_callback(lambda _: self._changed.set())
            while not unit.done() and self._retrying.isdisjoint(records):
                await self._change()
            await self._commit(
                consumer, self._note_of_run
            )  # at once: what comes next may end the process, and this one did not

    async def _note(self, consumer: Consumer, offsets: dict[TopicPartition, Committed]) -> bool:
        """Commits, without end while the log is away or full. False when the worker was stopped before that, or the
        group has rebalanced: the next poll brings the new epoch.
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
        while self._attempts.running:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _unit(self, records: list[Record], epoch: int) -> None:
        if await self._attempts.process(records, lambda: epoch == self._epoch):
            self._done(records, epoch)

    def _done(self, records: Sequence[Record], epoch: int) -> None:
        if epoch != self._epoch:
            return  # another member has these partitions now, or this one reads them again
        for record in records:
            self._partitions[record.topic_partition].done(record.offset)
            self._in_flight[record.topic] -= 1
        self._changed.set()
        self._advanced.set()

    def _holds(self) -> bool:
        return self._consumer is not None and self._consumer.holds()

    def _paused(self, records: Sequence[Record], current: bool) -> None:
        """What waits for another try does not count as in flight, so that others go on."""
        self._retrying.update(records)
        if current:
            self._in_flight.subtract(record.topic for record in records)
        self._changed.set()

    def _resumed(self, records: Sequence[Record], current: bool) -> None:
        self._retrying.difference_update(records)
        if current:
            self._in_flight.update(record.topic for record in records)
        self._changed.set()

    async def _log_is_away(self, what: str, error: Unavailable | StorageFull) -> None:
        log.warning(f"{what} failed", stage=self._stage.name, reason=error.message)
        await self._attempts.sleep(LOG_AWAY_S)

    async def _keep_committing(self, consumer: Consumer) -> None:
        while True:
            await self._advanced.wait()
            await asyncio.sleep(COMMIT_EVERY_S)
            self._advanced.clear()
            await self._commit(consumer, self._note_of_run)

    async def _commit(self, consumer: Consumer, metadata: str) -> None:
        """Commits what is done; every partition at the end, so that the next start knows it was clean."""
        ahead = {
            at: it.next_offset
            for at, it in self._partitions.items()
            if it.next_offset > it.committed or metadata == STOPPED
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
