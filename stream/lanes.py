"""The two lanes of a worker: how many records it polls from which topics, so that the bulk lane never holds up the
first one, and is never starved by it.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

POLL_S = 0.5
BRIEF_POLL_S = 0.02  # for a poll that leaves out topics or partitions: it may soon be their turn again
BULK_FIRST_EVERY = 20  # one poll in this many asks the bulk lane first
BULK_IDLE_DIVISOR = 4  # the bulk lane gets a quarter of what may be in flight while the first lane is idle …
BULK_WHILE_BUSY = 1  # … and this many records while the first lane is not idle


class Poll(NamedTuple):
    """The arguments of a poll. topics: None for the topics of both lanes."""

    max_records: int
    timeout_s: float
    topics: Collection[str] | None = None


class LaneScheduler:
    """`topics` are the first lane, `bulk_topics` the second, which may be empty."""

    def __init__(self, topics: Collection[str], bulk_topics: Collection[str], max_in_flight: int) -> None:
        self._topics, self._bulk_topics = topics, bulk_topics
        self._bulk_while_idle = max(1, max_in_flight // BULK_IDLE_DIVISOR)
        self._rounds = 0

    def next_polls(self, free: int, in_flight: Mapping[str, int], *, brief: bool) -> list[Poll]:
        """The polls to make, one after the other, until one returns records. free: how many records may be polled;
        in_flight: by topic; brief: some partitions are left out.
        """
        timeout_s = BRIEF_POLL_S if brief else POLL_S
        if not self._bulk_topics:
            return [Poll(free, timeout_s)]
        self._rounds += 1
        first_is_busy = any(count for topic, count in in_flight.items() if topic not in self._bulk_topics)
        bulk_in_flight = sum(in_flight.get(topic, 0) for topic in self._bulk_topics)
        room = min(free, (BULK_WHILE_BUSY if first_is_busy else self._bulk_while_idle) - bulk_in_flight)
        if room <= 0:
            return [Poll(free, BRIEF_POLL_S, self._topics)]
        lanes = [Poll(free, 0, self._topics), Poll(room, 0, self._bulk_topics)]
        if self._rounds % BULK_FIRST_EVERY == 0:
            lanes.reverse()
        return [*lanes, Poll(room, timeout_s)]
