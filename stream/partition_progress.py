"""How far a partition is: which polled records are done, and up to where a commit may go."""

from collections import deque
from dataclasses import dataclass, field

from backends.log import Record


@dataclass
class PartitionProgress:
    """One partition in one epoch. `next_offset` is what may be committed: everything below it is done.

    `waiting` holds what is not yet handed over, by sequence; `busy` the sequences that are being handled.
    """

    next_offset: int
    committed: int
    suspects_below: int
    suspects_left: int
    suspects_alone: bool = True  # each is tried alone: one of several that were tried together has ended the process
    suspects: deque[Record] = field(default_factory=deque)
    waiting: dict[str, deque[Record]] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    _polled: deque[int] = field(default_factory=deque)
    _done: set[int] = field(default_factory=set)
    _suspected: set[int] = field(default_factory=set)

    def polled(self, offset: int) -> None:
        self._polled.append(offset)

    def done(self, offset: int) -> None:
        """Marks a record as done; the commit can go past it once all before it are."""
        self._done.add(offset)
        self._suspected.discard(offset)
        while self._polled and self._polled[0] in self._done:
            first = self._polled.popleft()
            self._done.remove(first)
            self.next_offset = first + 1

    def is_first(self, offset: int) -> bool:
        """Whether every record that was polled before this one is done."""
        return not self._polled or self._polled[0] >= offset

    @property
    def suspects_undone(self) -> bool:
        return bool(self._suspected)

    @property
    def undone(self) -> int:
        """How many records were polled and are not done."""
        return len(self._polled) - len(self._done)

    def is_suspect(self, offset: int) -> bool:
        """Whether the record may have been under way in a process that ended uncleanly: it was there when this epoch
        began, among the first that were not committed. Counts the records it is asked about.
        """
        if offset >= self.suspects_below or self.suspects_left == 0:
            return False
        self.suspects_left -= 1
        self._suspected.add(offset)
        return True
