"""What a worker runs: a stage of the stream, which knows nothing of offsets."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from backends.log import Committed, NewRecord, Record, TopicPartition
from schemas.records import EraseRequested, ImageReceived


class Stage(Protocol):
    """`name` is its consumer group."""

    name: str

    async def assigned(self, assignment: Mapping[TopicPartition, Committed]) -> None:
        """Called when a new epoch begins. What the stage holds in memory is valid only where it is as of the committed
        offset.
        """

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        """The outputs of these records. Effects are idempotent: records may come again. Raises FacestreamError."""

    def received(self, record: Record) -> ImageReceived | EraseRequested:
        """The event that a record stems from. `received_at` says when that came, where the record is not the event
        itself. Raises UnreadableRecord.
        """

    async def probe(self) -> None:
        """Raises Unavailable while a store that `handle` needs is away."""
