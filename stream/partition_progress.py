"""The progress in a partition: which polled records are done, and which offset may be committed."""

from collections import deque
from dataclasses import dataclass, field

from backends.log import Record
from stream.suspects import Suspects


@dataclass
class PartitionProgress:
    """One partition in one epoch. Everything below `next_offset` is done, so `next_offset` may be committed.

    `waiting` has the records that are not yet handed over, by sequence. `busy` has the sequences that are being
    handled.
    """

    next_offset: int
    committed_offset: int
    suspects: Suspects = field(default_factory=Suspects)
    waiting: dict[str, deque[Record]] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    _polled: deque[int] = field(default_factory=deque)
    _done: set[int] = field(default_factory=set)

    def add_polled(self, offset: int) -> None:
        self._polled.append(offset)

    def move_to(self, next_poll: int) -> bool:
        """Notes the offset at which the next poll continues: if no polled record is undone, a commit can pass what is
        before it. Returns whether that moves `next_offset`.
        """
        if self._polled or next_poll <= self.next_offset:
            return False
        self.next_offset = next_poll
        return True

    def mark_done(self, offset: int) -> None:
        """Marks a record as done. A commit can pass it once all records before it are done."""
        self._done.add(offset)
        self.suspects.mark_done(offset)
        while self._polled and self._polled[0] in self._done:
            first = self._polled.popleft()
            self._done.remove(first)
            self.next_offset = first + 1

    def is_first(self, offset: int) -> bool:
        """Whether every record that was polled before this one is done."""
        return not self._polled or self._polled[0] >= offset

    @property
    def undone(self) -> int:
        """The number of records that were polled and are not done."""
        return len(self._polled) - len(self._done)
