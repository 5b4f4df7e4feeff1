"""An epoch of a worker: its state under one assignment of partitions, which ends when the group rebalances."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from backends.log import CommittedOffset, EventLog, Record, TopicPartition
from stream.partition_progress import PartitionProgress
from stream.suspects import Suspects

NO_EPOCH = 0  # the number of the epoch before the first: that of a consumer that has not joined its group yet


class Epoch:
    """The partitions of one assignment and the records that were polled from them.

    `in_flight` counts, by topic, the records that were polled and are not done. Records that wait for another try are
    counted in `retrying` instead, so that other records can be polled.
    """

    def __init__(
        self,
        number: int,
        assignment: Mapping[TopicPartition, CommittedOffset],
        suspects: Mapping[TopicPartition, Suspects],
    ) -> None:
        self.number = number
        self.partitions = {
            at: PartitionProgress(committed.offset, committed.offset, suspects[at])
            for at, committed in assignment.items()
        }
        self.is_current = True
        self.in_flight: Counter[str] = Counter()
        self.retrying: set[Record] = set()

    def end(self) -> None:
        """Ends the epoch. From then on nothing of it is handed over or committed: another member has its partitions, or
        this one polls their records again.
        """
        self.is_current = False

    def add_polled(self, record: Record, sequence: str) -> None:
        """Queues a polled record to be handed over or, if it is a suspect, to be tried."""
        progress = self.partitions[record.topic_partition]
        progress.add_polled(record.offset)
        self.in_flight[record.topic] += 1
        if progress.suspects.claim(record.offset):
            progress.suspects.untried.append(record)
        else:
            progress.waiting.setdefault(sequence, deque()).append(record)

    def move_to(self, next_offsets: Mapping[TopicPartition, int]) -> bool:
        """Notes the offsets at which the next poll continues. Between the records that were polled and these are only
        offsets without records, which a commit can pass. Returns whether there are any.
        """
        moved = [self.partitions[at].move_to(offset) for at, offset in next_offsets.items()]
        return any(moved)

    def take_suspects(self, sequence_of: Callable[[Record], str] | None) -> list[Record]:
        """The suspects to try next, together. They are from one partition in which all records before them are done.
        Empty if there are none.
        """
        for progress in self.partitions.values():
            untried = progress.suspects.untried
            if untried and progress.is_first(untried[0].offset):
                return progress.suspects.take(sequence_of)
        return []

    def mark_done(self, records: Sequence[Record]) -> None:
        """Marks records as done: their outputs are durable in the log."""
        for record in records:
            self.partitions[record.topic_partition].mark_done(record.offset)
            self.in_flight[record.topic] -= 1

    @contextmanager
    def waiting_for_retry(self, records: Sequence[Record]) -> Iterator[None]:
        """A context in which these records wait for another try."""
        topics = [record.topic for record in records]
        self.retrying.update(records)
        self.in_flight.subtract(topics)
        yield
        self.retrying.difference_update(records)
        self.in_flight.update(topics)

    def partitions_with_more_undone_than(self, count: int) -> Collection[TopicPartition]:
        """The partitions with more than `count` records that were polled and are not done."""
        return [at for at, progress in self.partitions.items() if progress.undone > count]

    def committable_offsets(self) -> dict[TopicPartition, int]:
        """The offset that may be committed in every partition. Empty after the end of the epoch."""
        return {at: it.next_offset for at, it in self.partitions.items()} if self.is_current else {}

    def uncommitted_offsets(self) -> dict[TopicPartition, int]:
        """As `committable_offsets`, without the partitions in which that offset is already committed."""
        return {
            at: offset
            for at, offset in self.committable_offsets().items()
            if offset > self.partitions[at].committed_offset
        }

    def mark_committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        for partition, offset in offsets.items():
            self.partitions[partition].committed_offset = max(self.partitions[partition].committed_offset, offset)


async def end_offsets(log: EventLog, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
    """The current end offsets of these partitions. Raises Unavailable."""
    ends = {topic: await log.end_offsets(topic) for topic in {at.topic for at in partitions}}
    return {at: ends[at.topic].get(at.partition, 0) for at in partitions}
