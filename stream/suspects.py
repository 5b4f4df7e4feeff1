"""Suspects: the records that a process had, or may have had, in flight when it ended uncleanly.

One of them may have ended it. So they are tried before all other records, one after the other or a few together, and
the attempt is noted in the log before it begins. A record whose attempts end the process MOST_ATTEMPTS times is given
up.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from backends.log import Committed, Record, TopicPartition
from stream.commit_notes import Attempt, RunBy, note_of

NO_OFFSET = -1


@dataclass
class Suspects:
    """The suspects of one partition in one epoch.

    They lie below the offset `below`, the end of the partition when the epoch began. There are at most `left` more of
    them: the process had no more records in flight. At most `together` are tried at a time. The record at
    `tried_offset` has been tried `attempts` times by processes that have ended.
    """

    below: int = 0
    left: int = 0
    together: int = 1
    tried_offset: int = NO_OFFSET
    attempts: int = 0
    untried: deque[Record] = field(default_factory=deque)
    _undone: set[int] = field(default_factory=set)

    @property
    def undone(self) -> bool:
        """Whether one of them is not done yet, tried or not."""
        return bool(self._undone)

    def claim(self, offset: int) -> bool:
        """Whether the record that was polled next is a suspect; counts those that are."""
        if offset >= self.below or self.left == 0:
            return False
        self.left -= 1
        self._undone.add(offset)
        return True

    def take(self, sequence_of: Callable[[Record], str] | None) -> list[Record]:
        """The records to try next: the first, and those behind it that belong to the same sequence."""
        records = [self.untried.popleft()]
        while self.untried and len(records) < self.together:
            if sequence_of and sequence_of(self.untried[0]) != sequence_of(records[0]):
                break
            records.append(self.untried.popleft())
        return records

    def next_attempt(self, record: Record) -> int:
        """The number of the attempt that would come next, from 1."""
        return 1 + (self.attempts if record.offset == self.tried_offset else 0)

    def done(self, offset: int) -> None:
        self._undone.discard(offset)


def suspects_after(
    assignment: Mapping[TopicPartition, Committed],
    ends: Mapping[TopicPartition, int],
    *,
    member: str,
    first_epoch: bool,
    in_flight: int,
    together: int,
) -> dict[TopicPartition, Suspects]:
    """The suspects of each partition that this member gets. ends: the end offsets; first_epoch: the process has just
    started.

    There are none where another member had the partition: whether that one died or not, the partition looks like any
    that moves in a rebalance. And a member that was running itself, in an earlier epoch, has not died.
    """
    suspects = {}
    for at, committed in assignment.items():
        match note_of(committed):
            case Attempt(number):
                suspects[at] = Suspects(ends[at], in_flight, tried_offset=committed.offset, attempts=number)
            case RunBy(name) if first_epoch and name == member:
                suspects[at] = Suspects(ends[at], in_flight, together)
            case _:
                suspects[at] = Suspects()
    return suspects
