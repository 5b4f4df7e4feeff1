"""Suspects: the records that a process had, or may have had, in flight when it ended uncleanly.

One of them may have ended the process. So they are tried before all other records, one by one or a few together, and
each attempt is noted in the log before it begins. A record whose attempts end the process MOST_ATTEMPTS times is given
up.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from backends.log import CommittedOffset, Record, TopicPartition
from stream.commit_notes import Owner, SuspectAttempt, note_of

NO_OFFSET = -1


@dataclass
class Suspects:
    """The suspects of one partition in one epoch.

    Their offsets are below `end_offset`, the end of the partition when the epoch began. At most `remaining` more
    records are suspects, because the process had no more in flight. At most `per_attempt` are tried at a time. The
    record at `tried_offset` has been tried `attempts` times by processes that have ended.
    """

    end_offset: int = 0
    remaining: int = 0
    per_attempt: int = 1
    tried_offset: int = NO_OFFSET
    attempts: int = 0
    untried: deque[Record] = field(default_factory=deque)
    _undone: set[int] = field(default_factory=set)

    @property
    def any_undone(self) -> bool:
        """Whether any suspect is not done yet, tried or not."""
        return bool(self._undone)

    def claim(self, offset: int) -> bool:
        """Whether the next polled record is a suspect. Counts it if it is."""
        if offset >= self.end_offset or self.remaining == 0:
            return False
        self.remaining -= 1
        self._undone.add(offset)
        return True

    def take(self, sequence_of: Callable[[Record], str] | None) -> list[Record]:
        """The records to try next: the first one, and the following ones of the same sequence."""
        records = [self.untried.popleft()]
        while self.untried and len(records) < self.per_attempt:
            if sequence_of and sequence_of(self.untried[0]) != sequence_of(records[0]):
                break
            records.append(self.untried.popleft())
        return records

    def next_attempt(self, record: Record) -> int:
        """The number of the attempt that would come next, from 1."""
        return 1 + (self.attempts if record.offset == self.tried_offset else 0)

    def mark_done(self, offset: int) -> None:
        self._undone.discard(offset)


def suspects_of_assignment(
    assignment: Mapping[TopicPartition, CommittedOffset],
    ends: Mapping[TopicPartition, int],
    *,
    member: str,
    first_epoch: bool,
    in_flight: int,
    per_attempt: int,
) -> dict[TopicPartition, Suspects]:
    """The suspects of each newly assigned partition. ends: the end offsets; first_epoch: whether the process has just
    started.

    There are none if another member had the partition: a crash of that member cannot be distinguished from an ordinary
    rebalance. There are none either if this process itself had it in an earlier epoch: it has not crashed.
    """
    suspects = {}
    for at, committed in assignment.items():
        match note_of(committed):
            case SuspectAttempt(number):
                suspects[at] = Suspects(ends[at], in_flight, tried_offset=committed.offset, attempts=number)
            case Owner(name) if first_epoch and name == member:
                suspects[at] = Suspects(ends[at], in_flight, per_attempt)
            case _:
                suspects[at] = Suspects()
    return suspects
